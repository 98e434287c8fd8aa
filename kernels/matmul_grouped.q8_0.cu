// matmul_grouped on Q8_0 weights: the kernels of matmul.cuh, a group in each grid z.
#include "common/cuda.cuh"

#include "args/matmul_grouped.h"
#include "matmul.cuh"
#include "quant/q8_0.cuh"

__device__ inline Product product(const MatmulGroupedArgs& a) { return {a.x, a.y, a.w, *a.T, a.G, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_q8_0_one(const MatmulGroupedArgs a) {
  matmul_few<Q8_0, 1>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_q8_0_few(const MatmulGroupedArgs a) {
  matmul_few<Q8_0, 4>(product(a));
}

extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
matmul_grouped_q8_0_many(const MatmulGroupedArgs a) {
  matmul_many<Q8_0, 2>(product(a));
}

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kTileThreads, kTileBlocks<Q8_0>)
matmul_grouped_q8_0_many_f16(const MatmulGroupedArgs a) {
  matmul_many<Q8_0, 1>(product(a));
}
