// moe_gate_up on Q8_0 experts: the kernels of moe_gate_up.cuh.
#include "common/cuda.cuh"

#include "moe_gate_up.cuh"
#include "quant/q8_0.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_gate_up_q8_0_few(const MoeGateUpArgs a) {
  moe_gate_up_few<Q8_0>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_gate_up_q8_0_sort(const MoeGateUpArgs a) {
  moe_gate_up_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
moe_gate_up_q8_0_many(const MoeGateUpArgs a) {
  moe_gate_up_many<Q8_0, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
moe_gate_up_q8_0_many_f16(const MoeGateUpArgs a) {
  moe_gate_up_many<Q8_0, 1>(a);
}
