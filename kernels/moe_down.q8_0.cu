// moe_down on Q8_0 experts: the kernels of moe_down.cuh and moe_down_many.cuh.
#include "common/cuda.cuh"

#include "many/q8_0.cuh"
#include "moe_down.cuh"
#include "moe_down_many.cuh"
#include "quant/q8_0.cuh"

extern "C" __global__ void __launch_bounds__(32 * kDownWarps, 2) moe_down_q8_0_few(const MoeDownArgs a) {
  moe_down_few<Q8_0, Q8_0Lane>(a);
}

static_assert(sizeof(ManyTile<Q8_0, 1, kTileTokens>::Shared) == 49472, "say the new size in the manifest");
static_assert(sizeof(ManyTile<Q8_0, 2, kTileTokens>::Shared) == 65840, "say the new size in the manifest");

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_q8_0_prepare_f16(const MoeDownArgs a) {
  moe_down_prepare<Q8_0, 1>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) moe_down_q8_0_many_f16(const MoeDownArgs a) {
  moe_down_many<Q8_0, 1>(a);
}

// Not rounded.
extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_q8_0_prepare(const MoeDownArgs a) {
  moe_down_prepare<Q8_0, 2>(a);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) moe_down_q8_0_many(const MoeDownArgs a) {
  moe_down_many<Q8_0, 2>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_q8_0_sum(const MoeDownArgs a) { moe_down_sum(a); }
