// moe_down on Q8_0 experts: the kernels of moe_down.cuh.
#include "common/cuda.cuh"

#include "moe_down.cuh"
#include "quant/q8_0.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_down_q8_0_few(const MoeDownArgs a) {
  moe_down_few<Q8_0>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_q8_0_sort(const MoeDownArgs a) {
  moe_down_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
moe_down_q8_0_many(const MoeDownArgs a) {
  moe_down_many<Q8_0, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
moe_down_q8_0_many_f16(const MoeDownArgs a) {
  moe_down_many<Q8_0, 1>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_q8_0_sum(const MoeDownArgs a) { moe_down_sum(a); }
