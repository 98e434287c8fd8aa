// Index score of every compressed row for every token: a product of queries and rows whose result is summed over the
// heads, weighted, after a ReLU (docs/model.md §11). In f32 here; on tensor cores, with operands rounded to f16 (which
// loses nothing of values that have been through fp4), in indexer_scores_mma.cuh.
//
// A block keeps ROWS rows in shared memory and lets TOKENS tokens pass by. The queries of as many tokens as fill
// SLOTS are taken at once, each token's heads padded to a multiple of four: a thread has four slots of one token × four
// rows, so it can weight and sum its four heads in registers.
#include "common/cuda.cuh"
#include "common/async.cuh"
#include "args/indexer_scores.h"
#include "indexer_scores_mma.cuh"

constexpr int THREADS = 256;
constexpr int ROWS = 64;
constexpr int SLOTS = 64;
constexpr int TOKENS = 32;
constexpr int DIM = 128;  // at most

struct Shared {
  float rows[ROWS][DIM + 4];  // + 4: neighbouring rows start 4 banks apart
  float q[SLOTS][DIM + 4];
  float weight[SLOTS];
  float part[SLOTS / 4][ROWS];
};
static_assert(sizeof(Shared) == 71936, "say the new size in the manifest");

extern "C" __global__ void __launch_bounds__(THREADS, 2) indexer_scores(const IndexerScoresArgs a) {
  const int row0 = blockIdx.x * ROWS, token0 = blockIdx.y * TOKENS, tokens = min(*a.T - token0, TOKENS);
  if (tokens <= 0 || a.D > DIM) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  DYN_SHARED(Shared, shared);
  Shared& sh = shared[0];

  const int seen = min(rows_seen(a, token0 + tokens - 1) - row0, ROWS);  // rows that the last token sees
  if (seen <= 0) {
    for (int i = threadIdx.x; i < tokens * ROWS; i += THREADS)
      if (row0 + i % ROWS < a.C) a.s[size_t(token0 + i / ROWS) * a.C + row0 + i % ROWS] = minus_infinity();
    return;
  }
  for (int r = warp; r < seen; r += THREADS / 32)
    for (int d = 4 * lane; d < a.D; d += 128) cp_async_16(&sh.rows[r][d], a.idx + size_t(row0 + r) * a.D + d);

  const int padded = min((a.H + 3) / 4 * 4, SLOTS);  // slots of a token; more heads than slots come in turns
  const int at_once = SLOTS / padded;
  const int first_slot = threadIdx.x / 16 * 4, first_row = threadIdx.x % 16;  // its rows are 16 apart
  for (int t = 0; t < tokens; t += at_once) {
    float part[4] = {};
    for (int h = 0; h < a.H; h += padded) {
      __syncthreads();  // the turn before has read q, weight and part
      for (int s = warp; s < SLOTS; s += THREADS / 32) {
        const int token = t + s / padded, head = h + s % padded;
        const bool valid = token < tokens && s / padded < at_once && head < a.H;
        const size_t flat = valid ? size_t(token0 + token) * a.H + head : 0;
        for (int d = 4 * lane; d < a.D; d += 128) cp_async_16_or_zero(&sh.q[s][d], a.iq + flat * a.D + d, valid);
        if (lane == 0) sh.weight[s] = valid ? a.iw[flat] * a.scale : 0.0f;
      }
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();

      if (first_row < seen && t + first_slot / padded < tokens) {
        float dot[4][4] = {};  // [slot][row]
        for (int d = 0; d < a.D; d += 4) {
          float4 k[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) k[r] = *(const float4*)&sh.rows[first_row + 16 * r][d];
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            const float4 x = *(const float4*)&sh.q[first_slot + s][d];
#pragma unroll
            for (int r = 0; r < 4; ++r)
              dot[s][r] += x.x * k[r].x + x.y * k[r].y + x.z * k[r].z + x.w * k[r].w;
          }
        }
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          const float weight = sh.weight[first_slot + s];
#pragma unroll
          for (int r = 0; r < 4; ++r) part[r] += weight * fmaxf(dot[s][r], 0.0f);
        }
      }
    }
    for (int r = 0; r < 4; ++r) sh.part[first_slot / 4][first_row + 16 * r] = part[r];
    __syncthreads();

    for (int i = threadIdx.x; i < min(at_once, tokens - t) * ROWS; i += THREADS) {
      const int token = token0 + t + i / ROWS, row = i % ROWS;
      if (row0 + row >= a.C) continue;
      float score = minus_infinity();
      if (row0 + row < rows_seen(a, token)) {
        score = 0.0f;
        for (int g = 0; g < padded / 4; ++g) score += sh.part[i / ROWS * padded / 4 + g][row];
      }
      a.s[size_t(token) * a.C + row0 + row] = score;
    }
  }
}

// Few tokens: 16 rows a warp, so that there are blocks enough to draw the rows from memory.
extern "C" __global__ void __launch_bounds__(indexer::THREADS, 1) indexer_scores_few(const IndexerScoresArgs a) {
  indexer::score<1, 2>(a, 0, *a.T);
}

extern "C" __global__ void __launch_bounds__(indexer::THREADS, 1) indexer_scores_many(const IndexerScoresArgs a) {
  const int token0 = blockIdx.y * indexer::TOKENS;
  indexer::score<4, 1>(a, token0, min(token0 + indexer::TOKENS, *a.T));
}
