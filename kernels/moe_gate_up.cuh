// The moe_gate_up kernels' bodies, for every expert format (docs/model.md §13):
// mid[pair, f] = silu(min(gate, clamp)) · clamp(up, ±clamp) · w[pair], pair = token · U + slot.
#pragma once
#include "args/moe_gate_up.h"
#include "quant/stream.cuh"

__device__ inline float gated(float gate, float up, float clamp, float w) {
  gate = fminf(gate, clamp);
  up = fminf(fmaxf(up, -clamp), clamp);
  return gate * (1.0f / (1.0f + expf(-gate))) * up * w;
}

// Few tokens. Block (b, pair): its share of an expert's rows, of gate and up in turns.
struct GateUpRows {
  static constexpr int slots = 1, kAtOnce = 2;
  static constexpr bool kPair = false, kOneVector = true, kVectorFirst = false;
  const float* vector;
  float* mid;
  const u8 *gate, *up;
  int row_bytes, k, first, end;
  bool even;
  float clamp, weight;

  __device__ const float* x(int) const { return vector; }
  __device__ const u8* weights(int) const { return gate; }
  __device__ const u8* row(const u8* gate, int r) const {
    return (r % 2 == 0 ? gate : up) + static_cast<long long>(r / 2) * row_bytes;
  }
  __device__ void store(int r, const float (&total)[2]) const {
    mid[r / 2] = gated(total[0], total[1], clamp, weight);
  }
};

constexpr int kGateUpWarps = 8, kGateUpSlices = 2;

template <class W, class L>
__device__ inline void moe_gate_up_few(const MoeGateUpArgs& a) {
  const int pair = blockIdx.y;
  if (pair >= *a.T * a.U) return;
  const int expert = a.sel[pair];
  if (expert < 0 || expert >= a.E) return;
  const int share = (a.F + gridDim.x - 1) / gridDim.x, first = blockIdx.x * share, row_bytes = a.K / W::kElems * W::kBytes;
  const u8* gate = weight_row<W>(a.gate, static_cast<long long>(expert) * a.F, a.K);
  const u8* up = weight_row<W>(a.up, static_cast<long long>(expert) * a.F, a.K);
  RowStream<L, kGateUpWarps, kGateUpSlices>::run(
      GateUpRows{a.x + static_cast<long long>(pair / a.U) * a.K, a.mid + static_cast<long long>(pair) * a.F, gate, up,
                 row_bytes, a.K, 2 * first, 2 * min(first + share, a.F),
                 row_bytes % 16 == 0 && aligned16(gate) && aligned16(up), a.clamp, a.w[pair]});
}
