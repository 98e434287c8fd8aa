// matmul_grouped on F32 weights: the kernels of matmul.cuh and matmul_many.cuh, a group in each grid z.
#include "common/cuda.cuh"

#include "args/matmul_grouped.h"
#include "many/plain.cuh"
#include "matmul.cuh"
#include "matmul_many.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulGroupedArgs& a) { return {a.x, a.y, a.w, *a.T, a.G, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kPlainThreads, 2) matmul_grouped_f32_one(const MatmulGroupedArgs a) {
  matmul_plain<F32>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_grouped_f32_few(const MatmulGroupedArgs a) {
  matmul_few<F32, 4>(product(a));
}

static_assert(sizeof(ManyTile<F32, 2, kDenseTokens<2>>::Shared) == 65840, "say the new size in the manifest");

extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_grouped_f32_prepare(const MatmulGroupedArgs a) {
  matmul_prepare<F32, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_grouped_f32_many(const MatmulGroupedArgs a) {
  matmul_many<F32, 2>(product(a), a.scratch);
}
