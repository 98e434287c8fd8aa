// moe_down on IQ2_XXS experts: the kernels of moe_down.cuh and moe_down_many.cuh.
#include "common/cuda.cuh"

#include "many/iq2_xxs.cuh"
#include "moe_down.cuh"
#include "moe_down_many.cuh"
#include "quant/iq2_xxs.cuh"

extern "C" __global__ void __launch_bounds__(32 * kDownWarps, 2) moe_down_iq2_xxs_few(const MoeDownArgs a) {
  moe_down_few<IQ2_XXS, IQ2_XXSLane, 2>(a);
}

static_assert(sizeof(ManyTile<IQ2_XXS, 1, kTileTokens>::Shared) == 51504, "say the new size in the manifest");
static_assert(sizeof(ManyTile<IQ2_XXS, 2, kTileTokens>::Shared) == 67872, "say the new size in the manifest");

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_iq2_xxs_prepare_f16(const MoeDownArgs a) {
  moe_down_prepare<IQ2_XXS, 1>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 2) moe_down_iq2_xxs_many_f16(const MoeDownArgs a) {
  moe_down_many<IQ2_XXS, 1>(a);
}

// Not rounded.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_iq2_xxs_prepare(const MoeDownArgs a) {
  moe_down_prepare<IQ2_XXS, 2>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) moe_down_iq2_xxs_many(const MoeDownArgs a) {
  moe_down_many<IQ2_XXS, 2>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_iq2_xxs_sum(const MoeDownArgs a) { moe_down_sum(a); }
