// The moe_down kernels' bodies, for every expert format (docs/model.md §13): y[t, n] = Σ_u down of expert sel[t, u],
// row n, times mid[t, u, :]. The router's weight is in mid already.
#pragma once
#include "args/moe_down.h"
#include "quant/experts.cuh"
#include "quant/matvec.cuh"
#include "quant/tile.cuh"

// Few tokens. Block (b, t): rows 4b .. 4b + 4 of every expert that token t chose.
template <class W>
__device__ inline void moe_down_few(const MoeDownArgs& a) {
  constexpr int kRows = 4;
  const int row0 = blockIdx.x * kRows, token = blockIdx.y;
  if (token >= *a.T) return;
  float acc[kRows][1] = {};
  for (int slot = 0; slot < a.U; ++slot) {
    const long long pair = static_cast<long long>(token) * a.U + slot;
    const int expert = a.sel[pair];
    if (expert < 0 || expert >= a.E) continue;
    const u8* w[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      w[r] = weight_row<W>(a.down, static_cast<long long>(expert) * a.N + min(row0 + r, a.N - 1), a.F);
    }
    const float* const x[1] = {a.mid + pair * a.F};
    matvec<W>(acc, w, x, a.F);
  }
  const float total = matvec_total(acc);
  const int row = row0 + threadIdx.x;
  if (threadIdx.x < kRows && row < a.N) a.y[static_cast<long long>(token) * a.N + row] = total;
}

// Many tokens, first launch: one block.
__device__ inline void moe_down_sort(const MoeDownArgs& a) {
  const int pairs = *a.T * a.U;
  sort_by_expert(a.sel, pairs, a.E, ExpertLists(a.scratch, a.E, pairs));
}

// Second launch. Block (tile, b): up to 64 pairs of one expert × 64 rows, into the pairs' own rows of the scratch.
template <class W, int XPARTS>
__device__ inline void moe_down_many(const MoeDownArgs& a) {
  using Tile = Tile<W, XPARTS>;
  __shared__ typename Tile::Stage stages[2];
  const int pairs = *a.T * a.U;
  const ExpertLists lists(a.scratch, a.E, pairs);
  if (blockIdx.x >= *lists.tiles) return;
  const int* info = lists.tile + 3 * blockIdx.x;
  const int expert = info[0], count = info[2], row0 = blockIdx.y * kTileRows;
  const int* order = lists.order + info[1];
  float* products = ExpertLists::after(a.scratch, a.E, pairs);
  const float* x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = Tile::staged_token(i);
    x[i] = at < count ? a.mid + static_cast<long long>(order[at]) * a.F : nullptr;
  }
  const int staged = row0 + Tile::staged_row();
  const u8* w = staged < a.N ? weight_row<W>(a.down, static_cast<long long>(expert) * a.N + staged, a.F) : nullptr;
  Tile tile;
  tile.run(stages, x, w, a.F, count, a.N - row0);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const int at = Tile::token(i, d);
      if (at >= count) continue;
      float* to = products + static_cast<long long>(order[at]) * a.N;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = row0 + Tile::row(j, d);
        if (row < a.N) to[row] = tile.acc[i][j][d];
      }
    }
  }
}

// Third launch. Block (t, b): sums 1024 elements over a token's slots, in the order of the slots and not of arrival, so
// that a token's result does not depend on its neighbours.
__device__ inline void moe_down_sum(const MoeDownArgs& a) {
  const int token = blockIdx.x, n = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  if (token >= *a.T || n >= a.N) return;
  const float* products = ExpertLists::after(a.scratch, a.E, *a.T * a.U);
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
