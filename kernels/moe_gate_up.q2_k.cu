// moe_gate_up on Q2_K experts: the kernels of moe_gate_up.cuh.
#include "common/cuda.cuh"

#include "moe_gate_up.cuh"
#include "quant/q2_k.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_gate_up_q2_k_few(const MoeGateUpArgs a) {
  moe_gate_up_few<Q2_K>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_gate_up_q2_k_sort(const MoeGateUpArgs a) {
  moe_gate_up_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q2_K>)
moe_gate_up_q2_k_many(const MoeGateUpArgs a) {
  moe_gate_up_many<Q2_K, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q2_K>)
moe_gate_up_q2_k_many_f16(const MoeGateUpArgs a) {
  moe_gate_up_many<Q2_K, 1>(a);
}
