// One joint softmax with a sink over window rows and compressed rows, for a tile of queries (docs/model.md §12).
//
// All heads share one key = value row, so queries of several heads, and of neighbouring tokens, stand in one tile and
// a row that the block has loaded serves all of them. Rows pass by once (online softmax):
//   scores: each warp has 4 queries; its lanes are 4 groups of 4 rows × 8 slices of the dims;
//   values: each thread has 8 queries × 8 dims of the output in registers.
#pragma once

#include "common/cuda.cuh"
#include "common/async.cuh"

namespace attention {

constexpr int THREADS = 256;
constexpr int QUERIES = 32;
constexpr int ROWS = 16;
constexpr int DIM = 512;  // at most; shorter heads leave the rest of the tile unused
constexpr int SPLITS = 32;

struct Shared {
  float q[QUERIES][DIM];
  float kv[ROWS][DIM];
  float p[ROWS][QUERIES + 4];  // + 4: lanes that store rows two apart meet other banks
  float factor[QUERIES];       // what the tile before is rescaled by; at the end 1/denominator
  int first[ROWS], last[ROWS];
};
// The manifests' `shared`. Below 99 KiB, the most that a block gets on sm_86, sm_89 and sm_120.
static_assert(sizeof(Shared) == 100864, "say the new size in the manifests");

// A row and the positions whose queries see it: first ..= last.
struct Key {
  const float* row;  // null: no row
  int first, last;
};

// The rows that any query of a tile may see: its window rows, then compressed rows, all of them or those in `ids`.
struct Keys {
  const float* ring;
  const float* comp;
  const int* ids;
  int dim, cap, window, ratio;
  int start;             // position of the first window row
  int n_window, n_comp;  // n_comp counts entries of ids, or rows
  int visible;           // compressed rows that the tile's last query sees

  __device__ Key at(int j) const {
    if (j < n_window) {
      const int position = start + j;
      return {ring + size_t(position % cap) * dim, position, position + window - 1};
    }
    j -= n_window;
    if (j < n_comp) {
      const int row = ids ? ids[j] : j;
      if (row >= 0 && row < visible) return {comp + size_t(row) * dim, (row + 1) * ratio - 1, 0x7fffffff};
    }
    return {nullptr, 0x7fffffff, -1};
  }
};

// Window rows of a tile whose queries stand at positions from ..= to; compressed rows are for the caller to add.
__device__ inline Keys window_keys(const float* ring, int dim, int cap, int window, int from, int to) {
  const int start = from + 1 > window ? from + 1 - window : 0;
  return {ring, nullptr, nullptr, dim, cap, window, 1, start, to + 1 - start, 0, 0};
}

// Hands half of the 2·HALF values that are left to the lane HALF/2 away, and takes its share of the others.
template <int HALF>
__device__ inline void fold_half(float (&v)[16], int lane) {
  const bool upper = lane & (HALF / 2);
#pragma unroll
  for (int i = 0; i < HALF; ++i) {
    const float sent = upper ? v[i] : v[i + HALF];
    const float kept = upper ? v[i + HALF] : v[i];
    v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, HALF / 2);
  }
}

// Sums 16 values over 8 neighbouring lanes in 14 shuffles: lane i is left with the sums 2i, 2i + 1 in v[0], v[1].
__device__ inline void fold(float (&v)[16], int lane) {
  fold_half<8>(v, lane);
  fold_half<4>(v, lane);
  fold_half<2>(v, lane);
}

// Over the lanes that share a query after fold(): they differ in bits 1, 8 and 16.
__device__ inline float query_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 8));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 16));
}

__device__ inline float query_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  v += __shfl_xor_sync(0xffffffffu, v, 8);
  return v + __shfl_xor_sync(0xffffffffu, v, 16);
}

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

__device__ inline void scale_add(float4& acc, float p, const float4& v) {
  acc.x += p * v.x, acc.y += p * v.y, acc.z += p * v.z, acc.w += p * v.w;
}

__device__ inline void scale_by(float4& acc, float f) { acc.x *= f, acc.y *= f, acc.z *= f, acc.w *= f; }

// `queries` ≤ QUERIES flat (token, head) pairs from `query0` on.
struct Tile {
  const float* q;
  float* o;
  const float* sinks;
  int heads;
  float scale;
  int pos0;
  size_t query0;
  int queries;
};

// With few tokens there are few tiles, so the rows of each are split over up to SPLITS blocks, and merge() puts the
// parts together. A part holds Σ exp(s − top)·kv, then top and Σ exp(s − top), in `dim` + 4 floats.
__device__ inline int rows_of_split(const Keys& keys) {
  return (keys.n_window + keys.n_comp + SPLITS * ROWS - 1) / (SPLITS * ROWS) * ROWS;
}

// Attends over the rows begin .. end: all of them when `parts` is null, else split `split` of them.
__device__ inline void attend(const Keys& keys, const Tile& tile, int begin, int end, float* parts, int split) {
  DYN_SHARED(Shared, shared);
  Shared& sh = shared[0];
  const int dim = keys.dim, queries = tile.queries, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 8, slice = lane % 8;

  const float* q = tile.q + tile.query0 * dim;
  for (int i = warp; i < queries; i += THREADS / 32)
    for (int d = 4 * lane; d < dim; d += 128) cp_async_16(&sh.q[i][d], q + size_t(i) * dim + d);

  // Softmax state of this lane's query; the eight lanes that share one keep the same bits. The sink starts it off:
  // a logit without a value, and counts in the first split alone. The floor keeps −inf from making −inf − −inf.
  const int mine = 4 * warp + slice / 2;
  const size_t flat = tile.query0 + (mine < queries ? mine : 0);
  const int position = tile.pos0 + int(flat / tile.heads);
  const float sink = begin == 0 ? tile.sinks[flat % tile.heads] : minus_infinity();
  float top = fmaxf(sink, -3e38f), sum = expf(sink - top);

  const int value_query = warp / 2 * 8, value_dim = warp % 2 * 256 + 4 * lane;
  float4 acc[8][2] = {};

  for (int j = begin; j < end; j += ROWS) {
    for (int r = warp; r < ROWS; r += THREADS / 32) {
      const Key key = keys.at(j + r);  // `end` is a multiple of ROWS, or there are no rows behind it
      // A row that nobody sees must be zero, not whatever lies there: its weight is 0, and 0 · NaN is not.
      for (int d = 4 * lane; d < dim; d += 128)
        cp_async_16_or_zero(&sh.kv[r][d], key.row ? key.row + d : keys.ring, key.row != nullptr);
      if (lane == 0) sh.first[r] = key.first, sh.last[r] = key.last;
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();

    if (4 * warp < queries) {
      float s[16] = {};  // [query][row]
      for (int d = 4 * slice; d < dim; d += 32) {
        float4 k[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) k[r] = *(const float4*)&sh.kv[4 * group + r][d];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float4 x = *(const float4*)&sh.q[4 * warp + i][d];
#pragma unroll
          for (int r = 0; r < 4; ++r)
            s[4 * i + r] += x.x * k[r].x + x.y * k[r].y + x.z * k[r].z + x.w * k[r].w;
        }
      }
      fold(s, lane);
      const int row = 4 * group + slice % 2 * 2;
      float p[2], best = top;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const bool seen = sh.first[row + e] <= position && position <= sh.last[row + e];
        p[e] = seen ? s[e] * tile.scale : minus_infinity();
        best = fmaxf(best, p[e]);
      }
      best = query_max(best);
      const float factor = expf(top - best);
      p[0] = expf(p[0] - best), p[1] = expf(p[1] - best);
      sum = sum * factor + query_sum(p[0] + p[1]);
      top = best;
      sh.p[row][mine] = p[0], sh.p[row + 1][mine] = p[1];
      if (group == 0 && slice % 2 == 0) sh.factor[mine] = factor;
    }
    __syncthreads();

    if (value_query < queries && value_dim < dim) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float factor = sh.factor[value_query + i];
        scale_by(acc[i][0], factor), scale_by(acc[i][1], factor);
      }
#pragma unroll 2
      for (int r = 0; r < ROWS; ++r) {
        const float4 lo = *(const float4*)&sh.kv[r][value_dim], hi = *(const float4*)&sh.kv[r][value_dim + 128];
        const float4 a = *(const float4*)&sh.p[r][value_query], b = *(const float4*)&sh.p[r][value_query + 4];
        const float p[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) scale_add(acc[i][0], p[i], lo), scale_add(acc[i][1], p[i], hi);
      }
    }
    __syncthreads();  // before the next rows overwrite these
  }

  const size_t part = size_t(SPLITS) * (dim + 4);
  if (parts) parts += tile.query0 * part + size_t(split) * (dim + 4);
  if (mine < queries && group == 0 && slice % 2 == 0) {
    sh.factor[mine] = parts ? 1.0f : 1.0f / sum;
    if (parts) parts[mine * part + dim] = top, parts[mine * part + dim + 1] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int query = value_query + i;
    if (query >= queries) break;
    float* out = parts ? parts + query * part : tile.o + (tile.query0 + query) * dim;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      scale_by(acc[i][e], sh.factor[query]);
      if (value_dim + 128 * e < dim) *(float4*)(out + value_dim + 128 * e) = acc[i][e];
    }
  }
}

__device__ inline void attend_all(const Keys& keys, const Tile& tile) {
  attend(keys, tile, 0, keys.n_window + keys.n_comp, nullptr, 0);
}

__device__ inline void attend_split(const Keys& keys, const Tile& tile, int split, unsigned char* scratch) {
  const int rows = rows_of_split(keys), begin = split * rows, end = min(begin + rows, keys.n_window + keys.n_comp);
  if (begin < end) attend(keys, tile, begin, end, (float*)scratch, split);
}

// One query's parts, by a block of MERGERS threads.
constexpr int MERGERS = DIM / 4;
__device__ inline void merge(const Keys& keys, const Tile& tile, size_t query, const unsigned char* scratch) {
  const int dim = keys.dim, stride = dim + 4, rows = rows_of_split(keys), d = 4 * threadIdx.x;
  const int splits = (keys.n_window + keys.n_comp + rows - 1) / rows;
  const float* parts = (const float*)scratch + query * SPLITS * stride;
  if (d >= dim) return;
  float top = minus_infinity(), sum = 0.0f;
  for (int s = 0; s < splits; ++s) top = fmaxf(top, parts[s * stride + dim]);
  float4 acc = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int s = 0; s < splits; ++s) {
    const float weight = expf(parts[s * stride + dim] - top);
    sum += weight * parts[s * stride + dim + 1];
    scale_add(acc, weight, *(const float4*)(parts + s * stride + d));
  }
  scale_by(acc, 1.0f / sum);
  *(float4*)(tile.o + query * dim + d) = acc;
}

}  // namespace attention
