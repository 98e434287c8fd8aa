// matmul_grouped on F16 weights: the kernels of matmul.cuh, a group in each grid z.
#include "common/cuda.cuh"

#include "args/matmul_grouped.h"
#include "matmul.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulGroupedArgs& a) { return {a.x, a.y, a.w, *a.T, a.G, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_f16_one(const MatmulGroupedArgs a) {
  matmul_few<F16, 1>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_f16_few(const MatmulGroupedArgs a) {
  matmul_few<F16, 4>(product(a));
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<F16>)
matmul_grouped_f16_many(const MatmulGroupedArgs a) {
  matmul_many<F16, 2>(product(a));
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<F16>)
matmul_grouped_f16_many_f16(const MatmulGroupedArgs a) {
  matmul_many<F16, 1>(product(a));
}
