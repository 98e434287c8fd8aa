// moe_gate_up on IQ2_XXS experts: the kernels of moe_gate_up.cuh.
#include "common/cuda.cuh"

#include "moe_gate_up.cuh"
#include "quant/iq2_xxs.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_gate_up_iq2_xxs_few(const MoeGateUpArgs a) {
  moe_gate_up_few<IQ2_XXS>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_gate_up_iq2_xxs_sort(const MoeGateUpArgs a) {
  moe_gate_up_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<IQ2_XXS>)
moe_gate_up_iq2_xxs_many(const MoeGateUpArgs a) {
  moe_gate_up_many<IQ2_XXS, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<IQ2_XXS>)
moe_gate_up_iq2_xxs_many_f16(const MoeGateUpArgs a) {
  moe_gate_up_many<IQ2_XXS, 1>(a);
}
