// Index scores on tensor cores: operands rounded to f16, sums in f32.
//
// Rows are the products' first operand and stay in registers: a warp has 16·M of them, all 128 dims, for as many tokens
// as the block is given. The second operand is a token's queries, up to HEADS at a time, double-buffered in shared
// memory: while one step is multiplied, the next one's loads are in flight into registers. A lane so gets scores of its
// rows for two heads of eight, takes their ReLU, weights and adds them on the spot; what is left is a sum over the four
// lanes that share a row.
//
// With M = 4 a fragment of queries that is read from shared memory serves 64 rows, 64 bytes a product of 16 × 8 × 16
// where a multiprocessor can read about 200: nothing but the tensor cores is near its limit.
#pragma once
#include "args/indexer_scores.h"
#include "common/cuda.cuh"
#include "common/halves.cuh"
#include "common/mma.cuh"

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

// Compressed rows that a token of the step sees.
__device__ inline int rows_seen(const IndexerScoresArgs& a, int token) {
  return min((*a.pos0 + token + 1) / 4, a.C);
}

namespace indexer {

constexpr int THREADS = 256;
constexpr int TOKENS = 32;  // of a block, where there are many
constexpr int DIM = 128;    // what a model has; no other is computed
constexpr int HEADS = 64;   // more come in turns
constexpr int STEPS = DIM / 16;

// Queries of one step. The 16-byte chunk c of head h stands where c ^ (h & 7) would: the eight rows that a fragment
// load takes are then in eight different groups of banks.
struct alignas(16) Stage {
  __half q[HEADS][DIM];
  float weight[HEADS];
};

// A step's queries on their way to shared memory. A warp takes whole heads, eight of them.
struct Queries {
  static constexpr int EACH = HEADS / (THREADS / 32);
  float4 q[EACH];
  float weight;

  // Heads from `head0` on; what is not there becomes zero, and weighs nothing.
  __device__ void load(const IndexerScoresArgs& a, int token, int head0) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const size_t first = size_t(token) * a.H + head0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int h = i * (THREADS / 32) + warp;
      q[i] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (head0 + h < a.H) q[i] = *(const float4*)(a.iq + (first + h) * DIM + 4 * lane);
    }
    weight = threadIdx.x < HEADS && head0 + int(threadIdx.x) < a.H ? a.iw[first + threadIdx.x] * a.scale : 0.0f;
  }

  __device__ void store(Stage& stage) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int h = i * (THREADS / 32) + warp;
      *(uint2*)&stage.q[h][8 * (lane / 2 ^ h % 8) + lane % 2 * 4] = {pack_halves(q[i].x, q[i].y),
                                                                    pack_halves(q[i].z, q[i].w)};
    }
    if (threadIdx.x < HEADS) stage.weight[threadIdx.x] = weight;
  }
};

// Tokens from `token` to `end`, with the 8·16·M rows of block blockIdx.x, PAIRS times 16 heads at once.
template <int M, int PAIRS>
__device__ inline void score(const IndexerScoresArgs& a, int token, int end) {
  constexpr int ROWS = 16 * M;  // of a warp
  __shared__ Stage stages[2];
  if (a.D != DIM || token >= end) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int block_row = blockIdx.x * (THREADS / 32 * ROWS), row0 = block_row + warp * ROWS;

  // Tokens that see none of the block's rows.
  const int first = min(max(4 * (block_row + 1) - 1 - *a.pos0, token), end);
  for (; token < first; ++token)
    for (int r = threadIdx.x; r < THREADS / 32 * ROWS && block_row + r < a.C; r += THREADS)
      a.s[size_t(token) * a.C + block_row + r] = minus_infinity();
  const int seen = rows_seen(a, end - 1);
  if (token == end || block_row >= seen) {
    return;
  }

  Queries next;
  next.load(a, token, 0);
  // Rows that no token sees are computed as the last that one does; their scores are not used.
  u32 rows[M][STEPS][4];
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* row = a.idx + size_t(min(row0 + 16 * m + 8 * h + g, seen - 1)) * DIM + 2 * t;
#pragma unroll
      for (int k = 0; k < STEPS; ++k) {
        const float2 low = *(const float2*)(row + 16 * k), high = *(const float2*)(row + 16 * k + 8);
        rows[m][k][h] = pack_halves(low.x, low.y), rows[m][k][2 + h] = pack_halves(high.x, high.y);
      }
    }
  }
  next.store(stages[0]);
  __syncthreads();

  float sum[M][2] = {};  // of rows g and g + 8
  for (int step = 0, head0 = 0; token < end; ++step) {
    const Stage& stage = stages[step % 2];
    const bool last_heads = head0 + HEADS >= a.H;
    const int next_token = token + last_heads, next_head = last_heads ? 0 : head0 + HEADS;
    if (next_token < end) next.load(a, next_token, next_head);

    const int visible = rows_seen(a, token);
    if (row0 < visible) {
      const int heads = min(a.H - head0, HEADS);
      for (int h = 0; h < heads; h += 16 * PAIRS) {
        float dot[M][2 * PAIRS][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
#pragma unroll
          for (int p = 0; p < PAIRS; ++p) {
            // Matrices of a fragment load: heads 0–7 with dims 0–7 and 8–15, then heads 8–15.
            u32 q[4];
            ldmatrix_x4(q, &stage.q[h + 16 * p + lane % 8 + lane / 16 * 8][8 * ((2 * k + lane / 8 % 2) ^ lane % 8)]);
            const u32 low[2] = {q[0], q[1]}, high[2] = {q[2], q[3]};
#pragma unroll
            for (int m = 0; m < M; ++m) {
              mma_m16n8k16_f16(dot[m][2 * p], rows[m][k], low);
              mma_m16n8k16_f16(dot[m][2 * p + 1], rows[m][k], high);
            }
          }
        }
#pragma unroll
        for (int n = 0; n < 2 * PAIRS; ++n) {
          const float2 w = *(const float2*)&stage.weight[h + 8 * n + 2 * t];
#pragma unroll
          for (int m = 0; m < M; ++m) {
            const float* d = dot[m][n];
            sum[m][0] += w.x * fmaxf(d[0], 0.0f) + w.y * fmaxf(d[1], 0.0f);
            sum[m][1] += w.x * fmaxf(d[2], 0.0f) + w.y * fmaxf(d[3], 0.0f);
          }
        }
      }
    }
    if (last_heads) {
      float* out = a.s + size_t(token) * a.C;
#pragma unroll
      for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float v = sum[m][h];
          v += __shfl_xor_sync(0xffffffffu, v, 1);
          v += __shfl_xor_sync(0xffffffffu, v, 2);
          const int row = row0 + 16 * m + 8 * h + g;
          // One of the four lanes stores, another for each m.
          if (t == m && row < a.C) out[row] = row < visible ? v : minus_infinity();
          sum[m][h] = 0.0f;
        }
      }
    }
    if (next_token < end) next.store(stages[(step + 1) % 2]);
    __syncthreads();
    token = next_token, head0 = next_head;
  }
}

}  // namespace indexer
