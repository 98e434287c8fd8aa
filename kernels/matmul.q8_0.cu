// matmul on Q8_0 weights: the kernels of matmul.cuh.
#include "common/cuda.cuh"

#include "args/matmul.h"
#include "matmul.cuh"
#include "quant/q8_0.cuh"

__device__ inline Product product(const MatmulArgs& a) { return {a.x, a.y, a.w, *a.T, 1, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_q8_0_one(const MatmulArgs a) {
  matmul_few<Q8_0, 1>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_q8_0_few(const MatmulArgs a) {
  matmul_few<Q8_0, 4>(product(a));
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
matmul_q8_0_many(const MatmulArgs a) {
  matmul_many<Q8_0, 2>(product(a));
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
matmul_q8_0_many_f16(const MatmulArgs a) {
  matmul_many<Q8_0, 1>(product(a));
}
