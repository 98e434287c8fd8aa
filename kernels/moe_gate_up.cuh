// The moe_gate_up kernels' bodies, for every expert format (docs/model.md §13):
// mid[pair, f] = silu(min(gate, clamp)) · clamp(up, ±clamp) · w[pair], pair = token · U + slot.
#pragma once
#include "args/moe_gate_up.h"
#include "quant/experts.cuh"
#include "quant/matvec.cuh"
#include "quant/tile.cuh"

__device__ inline float gated(float gate, float up, float clamp, float w) {
  gate = fminf(gate, clamp);
  up = fminf(fmaxf(up, -clamp), clamp);
  return gate * (1.0f / (1.0f + expf(-gate))) * up * w;
}

// Few tokens. Block (b, pair): two gate rows and the same two of up.
template <class W>
__device__ inline void moe_gate_up_few(const MoeGateUpArgs& a) {
  const int pair = blockIdx.y, row0 = blockIdx.x * 2;
  if (pair >= *a.T * a.U) return;
  const int expert = a.sel[pair];
  if (expert < 0 || expert >= a.E) return;
  const u8* w[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const long long row = static_cast<long long>(expert) * a.F + min(row0 + r / 2, a.F - 1);
    w[r] = weight_row<W>(r % 2 == 0 ? a.gate : a.up, row, a.K);
  }
  const float* const x[1] = {a.x + static_cast<long long>(pair / a.U) * a.K};
  float acc[4][1] = {};
  matvec<W>(acc, w, x, a.K);
  const float total = matvec_total(acc);
  const float up = __shfl_down_sync(0xffffffffu, total, 1);
  const int row = row0 + threadIdx.x / 2;
  if (threadIdx.x < 4 && threadIdx.x % 2 == 0 && row < a.F) {
    a.mid[static_cast<long long>(pair) * a.F + row] = gated(total, up, a.clamp, a.w[pair]);
  }
}

// Many tokens, first launch: one block.
__device__ inline void moe_gate_up_sort(const MoeGateUpArgs& a) {
  const int pairs = *a.T * a.U;
  sort_by_expert(a.sel, pairs, a.E, ExpertLists(a.scratch, a.E, pairs));
}

// Second launch. Block (tile, b): up to 64 pairs of one expert × 32 gate rows and the same 32 of up.
template <class W, int XPARTS>
__device__ inline void moe_gate_up_many(const MoeGateUpArgs& a) {
  using Tile = Tile<W, XPARTS>;
  __shared__ typename Tile::Stage stages[2];
  const int pairs = *a.T * a.U;
  const ExpertLists lists(a.scratch, a.E, pairs);
  if (blockIdx.x >= *lists.tiles) return;
  const int* info = lists.tile + 3 * blockIdx.x;
  const int expert = info[0], count = info[2], row0 = blockIdx.y * 32;
  const int* order = lists.order + info[1];
  const float* x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = Tile::staged_token(i);
    x[i] = at < count ? a.x + static_cast<long long>(order[at] / a.U) * a.K : nullptr;
  }
  // Of each warp's 32 tile rows the first 16 are gate's and the others the same of up, so that one thread ends up with
  // both sums of an element.
  const int staged = Tile::staged_row();
  const int row = row0 + staged / 32 * 16 + staged % 16;
  const void* weights = staged % 32 < 16 ? a.gate : a.up;
  const u8* w = row < a.F ? weight_row<W>(weights, static_cast<long long>(expert) * a.F + row, a.K) : nullptr;
  Tile tile;
  tile.run(stages, x, w, a.K, count, kTileRows);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const int at = Tile::token(i, d);
      if (at >= count) continue;
      const int pair = order[at];
      const float weight = a.w[pair];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int tile_row = Tile::row(j, d), f = row0 + tile_row / 32 * 16 + tile_row % 32;
        if (f >= a.F) continue;
        const float gate = tile.acc[i][j][d], up = tile.acc[i][j + 2][d];
        a.mid[static_cast<long long>(pair) * a.F + f] = gated(gate, up, a.clamp, weight);
      }
    }
  }
}
