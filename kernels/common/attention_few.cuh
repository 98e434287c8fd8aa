// The attention of attention.cuh on tensor cores, for few tokens: operands rounded to f16, sums in f32.
//
// What counts with few tokens is that enough blocks draw the rows from memory, and how long one block's chain of
// dependent steps is. A block has 16 queries, as many as a product takes, and 32 rows at a time, usually all that its
// split of the rows has. Each warp owns 64 of the 512 dims: it loads that part of the rows, rounds it and keeps it in
// shared memory for itself, as keys of its share of q·k and as values of its part of the output. Only the scores cross
// the warps: their eight shares are summed once, and then every warp goes through the same softmax.
#pragma once

#include "common/attention.cuh"
#include "common/halves.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"

namespace attention {
namespace few {

constexpr int QUERIES = 16;
constexpr int BLOCK = 32;  // rows; a lane has the key of each
constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int DIMS = DIM / WARPS;  // of a warp

struct Shared {
  __half rows[WARPS][BLOCK][DIMS];       // 16-byte chunk c of row r stands where c ^ (r & 7) would
  float share[WARPS][QUERIES][BLOCK + 8];  // + 8: lanes that store four queries apart meet other banks
  float score[QUERIES][BLOCK + 8];
};
static_assert(sizeof(Shared) == 55808, "say the new size in the manifests");

// A warp's dims of BLOCK rows, on their way to shared memory: a row in 16 lanes, two rows at once.
struct Rows {
  Key key;    // of row `lane`
  u32 there;  // a bit for each row
  float4 v[BLOCK / 2];

  __device__ void load(const Keys& keys, int j, int id) {
    const int lane = threadIdx.x % 32, d = threadIdx.x / 32 * DIMS + lane % 16 * 4;
    key = keys.key(j, id);
    there = __ballot_sync(0xffffffffu, key.row >= 0);
    int row[BLOCK / 2];
#pragma unroll
    for (int i = 0; i < BLOCK / 2; ++i) row[i] = __shfl_sync(0xffffffffu, key.row, 2 * i + lane / 16);
#pragma unroll
    for (int i = 0; i < BLOCK / 2; ++i) v[i] = *(const float4*)(keys.at(row[i]) + d);
  }

  // A row that nobody sees must be zero, not whatever lies there: its weight is 0, and 0 · NaN is not.
  __device__ void store(__half (&to)[BLOCK][DIMS]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < BLOCK / 2; ++i) {
      const int row = 2 * i + lane / 16;
      const uint2 halves = {pack_halves(v[i].x, v[i].y), pack_halves(v[i].z, v[i].w)}, none = {0, 0};
      *(uint2*)&to[row][8 * (lane % 16 / 2 ^ row % 8) + lane % 2 * 4] = there >> row & 1 ? halves : none;
    }
  }
};

// Attends over the rows begin .. end: all of them when `parts` is null, else split `split` of them.
__device__ inline void attend_rows(const Keys& keys, const Tile& tile, int begin, int end, float* parts, int split) {
  DYN_SHARED(Shared, shared);
  Shared& sh = shared[0];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  // Row numbers, queries and rows: three loads from memory, of which only the last has to wait for another. A row behind
  // `end` belongs to another split: it is asked for as one that there is not.
  const int behind = keys.count();
  const auto row_of = [=](int j) { return j + lane < end ? j + lane : behind; };
  int id = keys.id(row_of(begin));

  // Queries g and g + 8, this warp's dims. Queries that are not there are computed as the first.
  float2 wide[DIMS / 16][4];
#pragma unroll
  for (int i = 0; i < DIMS / 16 * 4; ++i) {
    const int query = g + i % 2 * 8, d = warp * DIMS + i / 4 * 16 + i % 4 / 2 * 8 + 2 * t;
    wide[i / 4][i % 4] = *(const float2*)(tile.q + (tile.query0 + (query < tile.queries ? query : 0)) * DIM + d);
  }
  Rows rows;
  rows.load(keys, row_of(begin), id);
  u32 q[DIMS / 16][4];  // as fragments
#pragma unroll
  for (int i = 0; i < DIMS / 16 * 4; ++i) q[i / 4][i % 4] = pack_halves(wide[i / 4][i % 4].x, wide[i / 4][i % 4].y);

  // Softmax state of queries g and g + 8, the same in every warp. Tops are logarithms to base 2; the floor keeps −inf
  // from making −inf − −inf.
  float top[2] = {-3e38f, -3e38f}, sum[2] = {};
  float acc[DIMS / 8][4] = {};

  for (int j = begin; j < end; j += BLOCK) {
    __syncwarp();
    rows.store(sh.rows[warp]);
    __syncwarp();
    const Key key = rows.key;
    if (j + BLOCK < end) {
      id = keys.id(row_of(j + BLOCK));
      rows.load(keys, row_of(j + BLOCK), id);
    }

    float s[BLOCK / 8][4] = {};
#pragma unroll
    for (int k = 0; k < DIMS / 16; ++k) {
#pragma unroll
      for (int n = 0; n < BLOCK / 16; ++n) {
        // Matrices of a fragment load: rows 0–7 with dims 0–7 and 8–15, then rows 8–15.
        u32 kv[4];
        ldmatrix_x4(kv, &sh.rows[warp][16 * n + lane % 8 + lane / 16 * 8][8 * ((2 * k + lane / 8 % 2) ^ lane % 8)]);
        const u32 low[2] = {kv[0], kv[1]}, high[2] = {kv[2], kv[3]};
        mma_m16n8k16_f16(s[2 * n], q[k], low);
        mma_m16n8k16_f16(s[2 * n + 1], q[k], high);
      }
    }
#pragma unroll
    for (int n = 0; n < BLOCK / 8; ++n) {
      *(float2*)&sh.share[warp][g][8 * n + 2 * t] = {s[n][0], s[n][1]};
      *(float2*)&sh.share[warp][g + 8][8 * n + 2 * t] = {s[n][2], s[n][3]};
    }
    __syncthreads();

    {  // A thread sums up the scores of one query and two rows.
      const int query = threadIdx.x / 16, row = threadIdx.x % 16 * 2;
      float2 score = {0.0f, 0.0f};
#pragma unroll
      for (int w = 0; w < WARPS; ++w) {
        const float2 share = *(const float2*)&sh.share[w][query][row];
        score.x += share.x, score.y += share.y;
      }
      const int position = tile.position(tile.query0 + (query < tile.queries ? query : 0));
      const int first[2] = {__shfl_sync(0xffffffffu, key.first, row), __shfl_sync(0xffffffffu, key.first, row + 1)};
      const int last[2] = {__shfl_sync(0xffffffffu, key.last, row), __shfl_sync(0xffffffffu, key.last, row + 1)};
      const float unit = tile.scale * LOG2E;
      score.x = first[0] <= position && position <= last[0] ? score.x * unit : minus_infinity();
      score.y = first[1] <= position && position <= last[1] ? score.y * unit : minus_infinity();
      *(float2*)&sh.score[query][row] = score;
    }
    __syncthreads();

    // Weights of queries g and g + 8 as fragments: those of a product's result and of its first operand agree.
    u32 p[BLOCK / 16][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float2 score[BLOCK / 8];
      float best = -3e38f;
#pragma unroll
      for (int n = 0; n < BLOCK / 8; ++n) {
        score[n] = *(const float2*)&sh.score[g + 8 * h][8 * n + 2 * t];
        best = fmaxf(best, fmaxf(score[n].x, score[n].y));
      }
      best = fmaxf(top[h], quad_max(best));
      const float factor = exp2f(top[h] - best);
      top[h] = best;
      sum[h] *= factor;
#pragma unroll
      for (int n = 0; n < DIMS / 8; ++n) acc[n][2 * h] *= factor, acc[n][2 * h + 1] *= factor;
#pragma unroll
      for (int n = 0; n < BLOCK / 8; ++n) {
        const u32 pair = pack_halves(exp2f(score[n].x - best), exp2f(score[n].y - best));
        // What is divided by must be what was multiplied with: the rounding then cancels where values agree.
        const float2 rounded = unpack_halves(pair);
        sum[h] += rounded.x + rounded.y;
        p[n / 2][n % 2 * 2 + h] = pair;
      }
    }
#pragma unroll
    for (int k = 0; k < BLOCK / 16; ++k) {
#pragma unroll
      for (int n = 0; n < DIMS / 16; ++n) {
        // Matrices of a transposed load: rows 0–7 and 8–15 with dims 0–7, then with dims 8–15.
        u32 kv[4];
        ldmatrix_x4_trans(kv, &sh.rows[warp][16 * k + lane % 16][8 * ((2 * n + lane / 16) ^ lane % 8)]);
        const u32 low[2] = {kv[0], kv[1]}, high[2] = {kv[2], kv[3]};
        mma_m16n8k16_f16(acc[2 * n], p[k], low);
        mma_m16n8k16_f16(acc[2 * n + 1], p[k], high);
      }
    }
  }

  const size_t part = size_t(SPLITS) * (DIM + 4);
  if (parts) parts += tile.query0 * part + size_t(split) * (DIM + 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = g + 8 * h;
    const bool there = query < tile.queries;
    // The sink, a logit without a value, comes last, and in the first split alone. Were it in the maximum from the
    // start, a high one would make the weights too small for f16.
    float all = quad_sum(sum[h]), factor = 1.0f;
    if (begin == 0) {
      const float sink = tile.sink(tile.query0 + (there ? query : 0)) * LOG2E, best = fmaxf(top[h], sink);
      factor = exp2f(top[h] - best);
      all = all * factor + exp2f(sink - best);
      top[h] = best;
    }
    if (!there) continue;
    if (!parts) factor /= all;
    float* out = (parts ? parts + query * part : tile.o + (tile.query0 + query) * DIM) + warp * DIMS + 2 * t;
#pragma unroll
    for (int n = 0; n < DIMS / 8; ++n)
      *(float2*)(out + 8 * n) = {acc[n][2 * h] * factor, acc[n][2 * h + 1] * factor};
    if (parts && warp == 0 && t == 0) {
      parts[query * part + DIM] = top[h] / LOG2E;  // merge() has natural logarithms
      parts[query * part + DIM + 1] = all;
    }
  }
}

__device__ inline void attend_all(const Keys& keys, const Tile& tile) {
  if (keys.dim == DIM) attend_rows(keys, tile, 0, keys.count(), nullptr, 0);
}

__device__ inline void attend_split(const Keys& keys, const Tile& tile, int split, unsigned char* scratch) {
  const int rows = rows_of_split(keys), begin = split * rows, end = min(begin + rows, keys.count());
  if (keys.dim == DIM && begin < end) attend_rows(keys, tile, begin, end, (float*)scratch, split);
}

}  // namespace few
}  // namespace attention
