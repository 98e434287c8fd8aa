// Products for a few tokens: bound by the bytes of the weights, so a block reads each of its rows once, for all its
// tokens, and enough blocks read at once.
#pragma once
#include "common/reduce.cuh"
#include "quant/format.cuh"

constexpr int kMatvecThreads = 128;

// acc[r][t] += this thread's share of Σ_k w[r][k] · x[t][k], f32 throughout. Threads take every 128th chunk, so a warp
// reads 512 consecutive elements of a row. A null x[t] is no token; all threads of the block pass the same.
template <class W, int ROWS, int TOKENS>
__device__ inline void matvec(float (&acc)[ROWS][TOKENS], const u8* const (&w)[ROWS], const float* const (&x)[TOKENS],
                              int k) {
  for (int e = threadIdx.x * 16; e < k; e += kMatvecThreads * 16) {
    typename W::Chunk chunk[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) chunk[r] = W::load(w[r], e, k);
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
      if (x[t] == nullptr) continue;
      float v[16], sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 part = load4(x[t], e + 4 * i, k);
        v[4 * i] = part.x, v[4 * i + 1] = part.y, v[4 * i + 2] = part.z, v[4 * i + 3] = part.w;
        if (W::kMin) sum += (part.x + part.y) + (part.z + part.w);
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        float q[16], scale, min, dot = 0.0f;
        W::floats(chunk[r], q, scale, min);
#pragma unroll
        for (int i = 0; i < 16; ++i) dot = fmaf(q[i], v[i], dot);
        acc[r][t] = fmaf(scale, dot, acc[r][t]);
        if (W::kMin) acc[r][t] = fmaf(-min, sum, acc[r][t]);
      }
    }
  }
}

// Thread r·TOKENS + t gets the whole product of row r and token t.
template <int ROWS, int TOKENS>
__device__ inline float matvec_total(const float (&acc)[ROWS][TOKENS]) {
  float flat[ROWS * TOKENS];
#pragma unroll
  for (int i = 0; i < ROWS * TOKENS; ++i) flat[i] = acc[i / TOKENS][i % TOKENS];
  return block_sums<kMatvecThreads>(flat);
}
