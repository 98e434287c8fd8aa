// moe_down on Q4_K experts: the kernels of moe_down.cuh.
#include "common/cuda.cuh"

#include "moe_down.cuh"
#include "quant/q4_k.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_down_q4_k_few(const MoeDownArgs a) {
  moe_down_few<Q4_K>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_q4_k_sort(const MoeDownArgs a) {
  moe_down_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q4_K>)
moe_down_q4_k_many(const MoeDownArgs a) {
  moe_down_many<Q4_K, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q4_K>)
moe_down_q4_k_many_f16(const MoeDownArgs a) {
  moe_down_many<Q4_K, 1>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_q4_k_sum(const MoeDownArgs a) { moe_down_sum(a); }
