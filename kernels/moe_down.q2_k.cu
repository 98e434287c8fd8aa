// moe_down on Q2_K experts: the kernels of moe_down.cuh.
#include "common/cuda.cuh"

#include "moe_down.cuh"
#include "quant/q2_k.cuh"

extern "C" __global__ void __launch_bounds__(kMatvecThreads) moe_down_q2_k_few(const MoeDownArgs a) {
  moe_down_few<Q2_K>(a);
}

extern "C" __global__ void __launch_bounds__(kSortThreads) moe_down_q2_k_sort(const MoeDownArgs a) {
  moe_down_sort(a);
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q2_K>)
moe_down_q2_k_many(const MoeDownArgs a) {
  moe_down_many<Q2_K, 2>(a);
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q2_K>)
moe_down_q2_k_many_f16(const MoeDownArgs a) {
  moe_down_many<Q2_K, 1>(a);
}

extern "C" __global__ void __launch_bounds__(256) moe_down_q2_k_sum(const MoeDownArgs a) { moe_down_sum(a); }
