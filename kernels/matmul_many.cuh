// The matmul kernels' bodies for many tokens, for every weight format (Product: matmul.cuh).
#pragma once
#include "many/tile.cuh"
#include "matmul.cuh"

constexpr int kPrepareThreads = 256;
// Blocks that a launch wants to have, for most SMs to have one.
constexpr int kBlocksWanted = 100;

// Tokens of a block: as many as the activations' copies leave room for, fewer where blocks would be few.
template <int XPARTS>
constexpr int kDenseTokens = XPARTS == 1 ? 128 : 64;

template <int XPARTS>
__device__ inline int tokens_of_block(const Product& p) {
  int tokens = kDenseTokens<XPARTS>;
  const int rows = (p.n + kManyRows - 1) / kManyRows * p.groups;
  while (tokens > 32 && (p.tokens + tokens - 1) / tokens * rows < kBlocksWanted) tokens /= 2;
  return tokens;
}

// First launch: activations into f16, a row a warp.
template <class W, int XPARTS>
__device__ inline void matmul_prepare(const Product& p, unsigned char* scratch) {
  const long long rows = static_cast<long long>(p.tokens) * p.groups;
  const long long row = static_cast<long long>(blockIdx.x) * (kPrepareThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  Activations<XPARTS, 0>(scratch, rows, p.k).prepare(p.x + row * p.k, p.k, row);
}

// Second launch. Block (t, b, g): tokens_of_block() tokens × 256 rows.
template <class W, int XPARTS>
__device__ inline void matmul_many(const Product& p, unsigned char* scratch) {
  using Tile = ManyTile<W, XPARTS, kDenseTokens<XPARTS>>;
  DYN_SHARED(typename Tile::Shared, shared);
  const int tokens = tokens_of_block<XPARTS>(p), token0 = blockIdx.x * tokens, group = blockIdx.z;
  if (token0 >= p.tokens) return;
  const int count = min(tokens, p.tokens - token0);
  const typename Tile::X x(scratch, static_cast<long long>(p.tokens) * p.groups, p.k);
  for (int at = threadIdx.x; at < kDenseTokens<XPARTS>; at += kManyThreads) {
    shared->row[at] = at < count ? (token0 + at) * p.groups + group : -1;
  }
  const int row0 = blockIdx.y * kManyRows + threadIdx.x / 32 * 32;
  const u8* w[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Past the last row the last one is computed again, and not written.
    const int row = min(row0 + Tile::row(i / 2, i % 2 * 2), p.n - 1);
    w[i / 2][i % 2] = weight_row<W>(p.w, static_cast<long long>(group) * p.n + row, p.k);
  }
  Tile tile;
  tile.run(*shared, x, w, p.k, count, row0 < p.n);
#pragma unroll
  for (int j = 0; j < kDenseTokens<XPARTS> / 8; ++j) {
#pragma unroll
    for (int d = 0; d < 2; ++d) {
      const int at = Tile::token(j, d);
      if (at >= count) continue;
      const int token = shared->row[at];
      const float scale = x.scale[token];
      float* to = p.y + static_cast<long long>(token) * p.n;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + Tile::row(i / 2, i % 2 * 2);
        if (row < p.n) to[row] = tile.acc[i / 2][j][i % 2 * 2 + d] * scale;
      }
    }
  }
}
