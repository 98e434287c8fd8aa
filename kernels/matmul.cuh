// The matmul kernels' bodies, for every weight format: y[t, n] = Σ_k w[n][k] · x[t, k] (docs/model.md §2.4).
//
// `groups` > 1 is matmul_grouped (docs/model.md §12): group g has rows g·N of the weights and its own K of x's.
#pragma once
#include "quant/matvec.cuh"
#include "quant/tile.cuh"

struct Product {
  const float* x;
  float* y;
  const void* w;
  int tokens, groups, k, n;
};

// Few tokens. Block (b, t, g): rows 4b .. 4b + 4 for TOKENS tokens from t·TOKENS.
template <class W, int TOKENS>
__device__ inline void matmul_few(const Product& p) {
  constexpr int kRows = 4;
  const int row0 = blockIdx.x * kRows, token0 = blockIdx.y * TOKENS, group = blockIdx.z;
  if (token0 >= p.tokens) return;
  const u8* w[kRows];
  const float* x[TOKENS];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // Past the last row the last one is computed again, and not written.
    w[r] = weight_row<W>(p.w, static_cast<long long>(group) * p.n + min(row0 + r, p.n - 1), p.k);
  }
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    const long long at = static_cast<long long>(token0 + t) * p.groups + group;
    x[t] = token0 + t < p.tokens ? p.x + at * p.k : nullptr;
  }
  float acc[kRows][TOKENS] = {};
  matvec<W>(acc, w, x, p.k);
  const float total = matvec_total(acc);
  const int row = row0 + threadIdx.x / TOKENS, token = token0 + threadIdx.x % TOKENS;
  if (threadIdx.x < kRows * TOKENS && row < p.n && token < p.tokens) {
    p.y[(static_cast<long long>(token) * p.groups + group) * p.n + row] = total;
  }
}

// Many tokens. Block (b, t, g): rows 64b .. 64b + 64 for 64 tokens from 64t.
template <class W, int XPARTS>
__device__ inline void matmul_many(const Product& p) {
  using Tile = Tile<W, XPARTS>;
  __shared__ typename Tile::Stage stages[2];
  const int row0 = blockIdx.x * kTileRows, token0 = blockIdx.y * kTileTokens, group = blockIdx.z;
  if (token0 >= p.tokens) return;
  const float* x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token0 + Tile::staged_token(i);
    x[i] = token < p.tokens ? p.x + (static_cast<long long>(token) * p.groups + group) * p.k : nullptr;
  }
  const int staged = row0 + Tile::staged_row();
  Tile tile;
  const u8* w = staged < p.n ? weight_row<W>(p.w, static_cast<long long>(group) * p.n + staged, p.k) : nullptr;
  tile.run(stages, x, w, p.k, p.tokens - token0, p.n - row0);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const int token = token0 + Tile::token(i, d), row = row0 + Tile::row(j, d);
        if (token < p.tokens && row < p.n) {
          p.y[(static_cast<long long>(token) * p.groups + group) * p.n + row] = tile.acc[i][j][d];
        }
      }
    }
  }
}
