// The moe_down kernels' bodies, for every expert format (docs/model.md §13): y[t, n] = Σ_u down of expert sel[t, u],
// row n, times mid[t, u, :]. The router's weight is in mid already.
#pragma once
#include "args/moe_down.h"
#include "quant/stream.cuh"

// Few tokens. Block (b, t): its share of the rows, each of every expert that token t chose.
struct DownRows {
  static constexpr int kAtOnce = 1;
  static constexpr bool kPair = false, kOneVector = false, kVectorFirst = true;
  const MoeDownArgs& a;
  long long pair0;
  float* y;
  int row_bytes, slots, k, first, end;
  bool even;

  __device__ const float* x(int slot) const { return a.mid + (pair0 + slot) * k; }
  __device__ const u8* weights(int slot) const {
    const int expert = a.sel[pair0 + slot];
    if (expert < 0 || expert >= a.E) return nullptr;
    return static_cast<const u8*>(a.down) + static_cast<long long>(expert) * a.N * row_bytes;
  }
  __device__ const u8* row(const u8* w, int r) const { return w + static_cast<long long>(r) * row_bytes; }
  __device__ void store(int r, const float (&total)[1]) const { y[r] = total[0]; }
};

// A warp for each of six experts, as the model has it.
constexpr int kDownWarps = 6;

template <class W, class L, int SLICES = kDownWarps>
__device__ inline void moe_down_few(const MoeDownArgs& a) {
  const int token = blockIdx.y;
  if (token >= *a.T) return;
  const int share = (a.N + gridDim.x - 1) / gridDim.x, first = blockIdx.x * share, row_bytes = a.F / W::kElems * W::kBytes;
  RowStream<L, kDownWarps, SLICES>::run(
      DownRows{a, static_cast<long long>(token) * a.U, a.y + static_cast<long long>(token) * a.N, row_bytes, a.U, a.F,
               first, min(first + share, a.N), row_bytes % 16 == 0 && aligned16(a.down)});
}
