// matmul on F32 weights: the kernels of matmul.cuh, matmul_many.cuh and matmul_narrow.cuh.
#include "common/cuda.cuh"

#include "args/matmul.h"
#include "many/plain.cuh"
#include "matmul.cuh"
#include "matmul_many.cuh"
#include "matmul_narrow.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulArgs& a) { return {a.x, a.y, a.w, *a.T, 1, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kPlainThreads, 2) matmul_f32_one(const MatmulArgs a) {
  matmul_plain<F32>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_f32_few(const MatmulArgs a) {
  matmul_few<F32, 4>(product(a));
}

static_assert(sizeof(ManyTile<F32, 2, kDenseTokens<2>>::Shared) == 65840, "say the new size in the manifest");

extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_f32_prepare(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_prepare<F32, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_f32_many(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_many<F32, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads) matmul_f32_narrow(const MatmulArgs a) {
  matmul_narrow<F32, 2>(product(a));
}
