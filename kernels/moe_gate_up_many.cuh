// moe_gate_up for many tokens, for every expert format: pairs of an expert together, on the tensor cores.
#pragma once
#include "many/experts.cuh"
#include "moe_gate_up.cuh"

// First launch. Block 0 sorts the pairs by expert; the others bring activations into f16, a row a warp.
template <class W, int XPARTS>
__device__ inline void moe_gate_up_prepare(const MoeGateUpArgs& a) {
  const int pairs = *a.T * a.U;
  const Activations<XPARTS, Operand<W>::kMinGroup> x(a.scratch, *a.T, a.K);
  if (blockIdx.x == 0) {
    sort_by_expert(a.sel, pairs, a.E, ExpertLists(x.after(*a.T), a.E, pairs));
    return;
  }
  const int token = (blockIdx.x - 1) * (kSortThreads / 32) + threadIdx.x / 32;
  if (token < *a.T) x.prepare(a.x + static_cast<long long>(token) * a.K, a.K, token);
}

// Second launch. Block (tile, b): up to 64 pairs of one expert × 128 gate rows and the same 128 of up.
template <class W, int XPARTS>
__device__ inline void moe_gate_up_many(const MoeGateUpArgs& a) {
  using Tile = ManyTile<W, XPARTS, kTileTokens>;
  DYN_SHARED(typename Tile::Shared, shared);
  const int pairs = *a.T * a.U;
  const typename Tile::X x(a.scratch, *a.T, a.K);
  const ExpertLists lists(x.after(*a.T), a.E, pairs);
  if (blockIdx.x >= *lists.tiles) return;
  const int* info = lists.tile + 3 * blockIdx.x;
  const int expert = info[0], count = info[2];
  const int* order = lists.order + info[1];
  for (int at = threadIdx.x; at < kTileTokens; at += kManyThreads) {
    shared->row[at] = at < count ? order[at] / a.U : -1;
  }
  // Of each warp's 32 rows the first 16 are gate's and the others the same of up, so that one thread ends up with both
  // sums of an element.
  const int f0 = (blockIdx.y * kManyWarps + threadIdx.x / 32) * 16;
  const u8* w[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Past the last row the last one is computed again, and not written.
    const long long row = static_cast<long long>(expert) * a.F + min(f0 + Tile::row(0, i % 2 * 2), a.F - 1);
    w[i / 2][i % 2] = weight_row<W>(i < 2 ? a.gate : a.up, row, a.K);
  }
  Tile tile;
  tile.run(*shared, x, w, a.K, count, f0 < a.F);
#pragma unroll
  for (int j = 0; j < kTileTokens / 8; ++j) {
#pragma unroll
    for (int d = 0; d < 2; ++d) {
      const int at = Tile::token(j, d);
      if (at >= count) continue;
      const int pair = order[at];
      const float weight = a.w[pair], scale = x.scale[shared->row[at]];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int f = f0 + Tile::row(0, 2 * r);
        if (f >= a.F) continue;
        const float gate = tile.acc[0][j][2 * r + d] * scale, up = tile.acc[1][j][2 * r + d] * scale;
        a.mid[static_cast<long long>(pair) * a.F + f] = gated(gate, up, a.clamp, weight);
      }
    }
  }
}
