// One joint softmax with a sink over window rows and compressed rows, for a tile of queries (docs/model.md §12).
//
// All heads share one key = value row, so queries of several heads, and of neighbouring tokens, stand in one tile and
// a row that the block has loaded serves all of them. Rows pass by once (online softmax):
//   scores: each warp has 4 queries; its lanes are 4 groups of 4 rows × 8 slices of the dims;
//   values: each thread has 8 queries × 8 dims of the output in registers.
#pragma once

#include "common/cuda.cuh"
#include "common/async.cuh"
#include "common/reduce.cuh"

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
  int row;  // ring row, or `cap` + compressed row; −1: no row
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

  __device__ int count() const { return n_window + n_comp; }
  // Key j in two halves, for those who read the id early: it may come from memory.
  __device__ int id(int j) const {
    j -= n_window;
    return j < 0 || j >= n_comp ? -1 : ids ? ids[j] : j;
  }
  __device__ Key key(int j, int id) const {
    if (j < n_window) {
      const int position = start + j;
      return {position % cap, position, position + window - 1};
    }
    if (id >= 0 && id < visible) return {cap + id, (id + 1) * ratio - 1, 0x7fffffff};
    return {-1, 0x7fffffff, -1};
  }
  // Where row `row` of a Key stands; any valid address for −1.
  __device__ const float* at(int row) const {
    return row < cap ? ring + size_t(max(row, 0)) * dim : comp + size_t(row - cap) * dim;
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

// Over the four lanes that share a row of a product's result (common/mma.cuh).
__device__ inline float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ inline float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

constexpr float LOG2E = 1.4426950408889634f;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

__device__ inline void scale_add(float4& acc, float p, const float4& v) {
  acc.x += p * v.x, acc.y += p * v.y, acc.z += p * v.z, acc.w += p * v.w;
}

__device__ inline void scale_by(float4& acc, float f) { acc.x *= f, acc.y *= f, acc.z *= f, acc.w *= f; }

// `queries` flat (token, head) pairs from `query0` on: not more than the kernel takes at once.
struct Tile {
  const float* q;
  float* o;
  const float* sinks;
  int heads;
  float scale;
  int pos0;
  size_t query0;
  int queries;

  // In 32 bits: with more pairs than that, q alone would take terabytes.
  __device__ int position(size_t query) const { return pos0 + int(u32(query) / u32(heads)); }
  __device__ float sink(size_t query) const { return sinks[u32(query) % u32(heads)]; }
};

// The tile of up to `most` queries that starts at `query0`, across tokens; empty behind the step's last.
template <class Args>
__device__ inline Tile flat_tile(const Args& a, size_t query0, int most) {
  const size_t all = a.D > DIM ? 0 : size_t(*a.T) * a.H;
  const int queries = query0 < all ? int(min(all - query0, size_t(most))) : 0;
  return {a.q, a.o, (const float*)a.sinks, a.H, a.scale, *a.pos0, query0, queries};
}

// Its window rows; compressed rows are for the caller to add.
template <class Args>
__device__ inline Keys flat_window(const Args& a, const Tile& tile) {
  return window_keys(a.ring, a.D, a.cap, a.window, tile.position(tile.query0),
                     tile.position(tile.query0 + tile.queries - 1));
}

// With few tokens there are few tiles, so the rows of each are split over up to SPLITS blocks, and merge() puts the
// parts together. A part holds Σ exp(s − top)·kv, then top and Σ exp(s − top), in `dim` + 4 floats.
__device__ inline int rows_of_split(const Keys& keys) {
  return (keys.count() + SPLITS * ROWS - 1) / (SPLITS * ROWS) * ROWS;
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
  const int position = tile.position(flat);
  const float sink = begin == 0 ? tile.sink(flat) : minus_infinity();
  float top = fmaxf(sink, -3e38f), sum = expf(sink - top);

  const int value_query = warp / 2 * 8, value_dim = warp % 2 * 256 + 4 * lane;
  float4 acc[8][2] = {};

  for (int j = begin; j < end; j += ROWS) {
    for (int r = warp; r < ROWS; r += THREADS / 32) {
      const Key key = keys.key(j + r, keys.id(j + r));  // `end` is a multiple of ROWS, or no rows are behind it
      const float* row = keys.at(key.row);
      // A row that nobody sees must be zero, not whatever lies there: its weight is 0, and 0 · NaN is not.
      for (int d = 4 * lane; d < dim; d += 128)
        cp_async_16_or_zero(&sh.kv[r][d], row + d, key.row >= 0);
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
  attend(keys, tile, 0, keys.count(), nullptr, 0);
}

__device__ inline void attend_split(const Keys& keys, const Tile& tile, int split, unsigned char* scratch) {
  const int rows = rows_of_split(keys), begin = split * rows, end = min(begin + rows, keys.count());
  if (begin < end) attend(keys, tile, begin, end, (float*)scratch, split);
}

// One query's parts, by a block of MERGERS threads with MERGED bytes of shared memory. A thread reads what it copied
// there itself: it is for having all parts' loads under way at once, which in registers no compiler keeps.
constexpr int MERGERS = DIM / 4, MERGED = SPLITS * DIM * 4;
static_assert(SPLITS == 32, "a part for each lane to weigh");
static_assert(MERGED == 65536, "say the new size in the manifests");
__device__ inline void merge(const Keys& keys, const Tile& tile, size_t query, const unsigned char* scratch) {
  const int dim = keys.dim, stride = dim + 4, rows = rows_of_split(keys), lane = threadIdx.x % 32;
  const int splits = (keys.count() + rows - 1) / rows, d = 4 * threadIdx.x;
  const float* parts = (const float*)scratch + query * SPLITS * stride;
  DYN_SHARED(float4, values);
  for (int s = 0; s < splits; ++s)
    if (d < dim) cp_async_16(&values[s * MERGERS + threadIdx.x], parts + s * stride + d);
  cp_async_commit();
  float2 head = {minus_infinity(), 0.0f};
  if (lane < splits) head = *(const float2*)(parts + lane * stride + dim);
  const float weight = expf(head.x - warp_max(head.x)), sum = warp_sum(weight * head.y);
  cp_async_wait<0>();
  float4 acc = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int s = 0; s < splits; ++s) {
    const float share = __shfl_sync(0xffffffffu, weight, s);
    if (d < dim) scale_add(acc, share, values[s * MERGERS + threadIdx.x]);
  }
  if (d >= dim) return;
  scale_by(acc, 1.0f / sum);
  *(float4*)(tile.o + query * dim + d) = acc;
}

}  // namespace attention
