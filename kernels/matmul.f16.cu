// matmul on F16 weights: the kernels of matmul.cuh, matmul_many.cuh and matmul_narrow.cuh.
#include "common/cuda.cuh"

#include "args/matmul.h"
#include "many/plain.cuh"
#include "matmul.cuh"
#include "matmul_many.cuh"
#include "matmul_narrow.cuh"
#include "quant/plain.cuh"

__device__ inline Product product(const MatmulArgs& a) { return {a.x, a.y, a.w, *a.T, 1, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(kPlainThreads, 2) matmul_f16_one(const MatmulArgs a) {
  matmul_plain<F16>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_f16_few(const MatmulArgs a) {
  matmul_few<F16, 4>(product(a));
}

static_assert(sizeof(ManyTile<F16, 1, kDenseTokens<1>>::Shared) == 98880, "say the new size in the manifest");
static_assert(sizeof(ManyTile<F16, 2, kDenseTokens<2>>::Shared) == 65840, "say the new size in the manifest");

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_f16_prepare_f16(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_prepare<F16, 1>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_f16_many_f16(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_many<F16, 1>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads) matmul_f16_narrow_f16(const MatmulArgs a) {
  matmul_narrow<F16, 1>(product(a));
}

// Not rounded.
extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_f16_prepare(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_prepare<F16, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_f16_many(const MatmulArgs a) {
  if (!narrow(product(a))) matmul_many<F16, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads) matmul_f16_narrow(const MatmulArgs a) {
  matmul_narrow<F16, 2>(product(a));
}
