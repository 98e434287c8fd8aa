// moe_down for many tokens, for every expert format: pairs of an expert together, on the tensor cores.
#pragma once
#include "many/experts.cuh"
#include "moe_down.cuh"

// Every pair's products, then the activations, then the lists.
template <class W, int XPARTS>
struct DownScratch {
  float* products;
  Activations<XPARTS, Operand<W>::kMinGroup> x;
  ExpertLists lists;

  __device__ DownScratch(const MoeDownArgs& a, int pairs)
      : products(reinterpret_cast<float*>(a.scratch)),
        x(a.scratch + (4ll * pairs * a.N + 15) / 16 * 16, pairs, a.F),
        lists(x.after(pairs), a.E, pairs) {}
};

// First launch. Block 0 sorts the pairs by expert; the others bring activations into f16, a row a warp.
template <class W, int XPARTS>
__device__ inline void moe_down_prepare(const MoeDownArgs& a) {
  const int pairs = *a.T * a.U;
  const DownScratch<W, XPARTS> scratch(a, pairs);
  if (blockIdx.x == 0) {
    sort_by_expert(a.sel, pairs, a.E, scratch.lists);
    return;
  }
  const int pair = (blockIdx.x - 1) * (kSortThreads / 32) + threadIdx.x / 32;
  if (pair < pairs) scratch.x.prepare(a.mid + static_cast<long long>(pair) * a.F, a.F, pair);
}

// Second launch. Block (tile, b): up to 64 pairs of one expert × 256 rows, into the pairs' own rows of the products.
template <class W, int XPARTS>
__device__ inline void moe_down_many(const MoeDownArgs& a) {
  using Tile = ManyTile<W, XPARTS, kTileTokens>;
  DYN_SHARED(typename Tile::Shared, shared);
  const DownScratch<W, XPARTS> scratch(a, *a.T * a.U);
  if (blockIdx.x >= *scratch.lists.tiles) return;
  const int* info = scratch.lists.tile + 3 * blockIdx.x;
  const int expert = info[0], count = info[2];
  const int* order = scratch.lists.order + info[1];
  for (int at = threadIdx.x; at < kTileTokens; at += kManyThreads) shared->row[at] = at < count ? order[at] : -1;
  const int row0 = blockIdx.y * kManyRows + threadIdx.x / 32 * 32;
  const u8* w[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Past the last row the last one is computed again, and not written.
    const int row = min(row0 + Tile::row(i / 2, i % 2 * 2), a.N - 1);
    w[i / 2][i % 2] = weight_row<W>(a.down, static_cast<long long>(expert) * a.N + row, a.F);
  }
  Tile tile;
  tile.run(*shared, scratch.x, w, a.F, count, row0 < a.N);
#pragma unroll
  for (int j = 0; j < kTileTokens / 8; ++j) {
#pragma unroll
    for (int d = 0; d < 2; ++d) {
      const int at = Tile::token(j, d);
      if (at >= count) continue;
      const int pair = shared->row[at];
      const float scale = scratch.x.scale[pair];
      float* to = scratch.products + static_cast<long long>(pair) * a.N;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + Tile::row(i / 2, i % 2 * 2);
        if (row < a.N) to[row] = tile.acc[i / 2][j][i % 2 * 2 + d] * scale;
      }
    }
  }
}

// Third launch. Block (t, b): sums 1024 elements over a token's slots, in the order of the slots and not of arrival, so
// that a token's result does not depend on its neighbours.
__device__ inline void moe_down_sum(const MoeDownArgs& a) {
  const int token = blockIdx.x, n = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  if (token >= *a.T || n >= a.N) return;
  const float* products = reinterpret_cast<const float*>(a.scratch);
  float4 sum = make_float4(0, 0, 0, 0);
  for (int slot = 0; slot < a.U; ++slot) {
    const long long pair = static_cast<long long>(token) * a.U + slot;
    // Nothing was computed for an id that names no expert.
    if (a.sel[pair] < 0 || a.sel[pair] >= a.E) continue;
    const float4 v = load4(products + pair * a.N, n, a.N);
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  store4(a.y + static_cast<long long>(token) * a.N, n, a.N, sum);
}
