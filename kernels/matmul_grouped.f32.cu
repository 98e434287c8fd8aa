// matmul_grouped on F32 weights: the kernels of matmul.cuh, a group in each grid z.
#include "common/cuda.cuh"

#include "args/matmul_grouped.h"
#include "matmul.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulGroupedArgs& a) { return {a.x, a.y, a.w, *a.T, a.G, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_f32_one(const MatmulGroupedArgs a) {
  matmul_few<F32, 1>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_f32_few(const MatmulGroupedArgs a) {
  matmul_few<F32, 4>(product(a));
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<F32>)
matmul_grouped_f32_many(const MatmulGroupedArgs a) {
  matmul_many<F32, 2>(product(a));
}
