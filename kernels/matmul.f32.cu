// matmul on F32 weights: the kernels of matmul.cuh.
#include "common/cuda.cuh"

#include "args/matmul.h"
#include "matmul.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulArgs& a) { return {a.x, a.y, a.w, *a.T, 1, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_f32_one(const MatmulArgs a) {
  matmul_few<F32, 1>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_f32_few(const MatmulArgs a) {
  matmul_few<F32, 4>(product(a));
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<F32>)
matmul_f32_many(const MatmulArgs a) {
  matmul_many<F32, 2>(product(a));
}
