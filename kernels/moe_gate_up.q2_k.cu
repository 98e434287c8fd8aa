// moe_gate_up on Q2_K experts: the kernels of moe_gate_up.cuh and moe_gate_up_many.cuh.
#include "common/cuda.cuh"

#include "many/q2_k.cuh"
#include "moe_gate_up.cuh"
#include "moe_gate_up_many.cuh"
#include "quant/q2_k.cuh"

extern "C" __global__ void __launch_bounds__(32 * kGateUpWarps, 2)
moe_gate_up_q2_k_few(const MoeGateUpArgs a) {
  moe_gate_up_few<Q2_K, Q2_KLane>(a);
}

static_assert(sizeof(ManyTile<Q2_K, 1, kTileTokens>::Shared) == 61712, "say the new size in the manifest");
static_assert(sizeof(ManyTile<Q2_K, 2, kTileTokens>::Shared) == 74000, "say the new size in the manifest");

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_gate_up_q2_k_prepare_f16(const MoeGateUpArgs a) {
  moe_gate_up_prepare<Q2_K, 1>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 2) moe_gate_up_q2_k_many_f16(const MoeGateUpArgs a) {
  moe_gate_up_many<Q2_K, 1>(a);
}

// Not rounded.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_gate_up_q2_k_prepare(const MoeGateUpArgs a) {
  moe_gate_up_prepare<Q2_K, 2>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) moe_gate_up_q2_k_many(const MoeGateUpArgs a) {
  moe_gate_up_many<Q2_K, 2>(a);
}
