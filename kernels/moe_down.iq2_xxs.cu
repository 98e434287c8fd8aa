// moe_down on IQ2_XXS experts: the kernels of moe_down.cuh.
#include "common/cuda.cuh"

#include "moe_down.cuh"
#include "quant/iq2_xxs.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_down_iq2_xxs_few(const MoeDownArgs a) {
  moe_down_few<IQ2_XXS>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_iq2_xxs_sort(const MoeDownArgs a) {
  moe_down_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<IQ2_XXS>)
moe_down_iq2_xxs_many(const MoeDownArgs a) {
  moe_down_many<IQ2_XXS, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<IQ2_XXS>)
moe_down_iq2_xxs_many_f16(const MoeDownArgs a) {
  moe_down_many<IQ2_XXS, 1>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_iq2_xxs_sum(const MoeDownArgs a) { moe_down_sum(a); }
