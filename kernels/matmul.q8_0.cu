// matmul on Q8_0 weights: the kernels of matmul.cuh and matmul_many.cuh.
#include "common/cuda.cuh"

#include "args/matmul.h"
#include "many/q8_0.cuh"
#include "matmul.cuh"
#include "matmul_many.cuh"
#include "quant/q8_0.cuh"

__device__ inline Product product(const MatmulArgs& a) { return {a.x, a.y, a.w, *a.T, 1, a.K, a.N}; }

extern "C" __global__ void __launch_bounds__(32 * kStreamWarps, 2) matmul_q8_0_one(const MatmulArgs a) {
  matmul_stream<Q8_0, Q8_0Lane>(product(a));
}

// One block of twice the warps for each multiprocessor: a vector of 8192 is split half as often, and more rows are on
// their way meanwhile.
struct Q8_0DeepLane : Q8_0Lane {
  static constexpr int kStages = 5;
};

extern "C" __global__ void __launch_bounds__(32 * 2 * kStreamWarps, 1) matmul_q8_0_one_wide(const MatmulArgs a) {
  matmul_stream<Q8_0, Q8_0DeepLane, 2 * kStreamWarps>(product(a));
}

extern "C" __global__ void __launch_bounds__(kMatvecThreads) matmul_q8_0_few(const MatmulArgs a) {
  matmul_few<Q8_0, 4>(product(a));
}

static_assert(sizeof(ManyTile<Q8_0, 1, kDenseTokens<1>>::Shared) == 98880, "say the new size in the manifest");
static_assert(sizeof(ManyTile<Q8_0, 2, kDenseTokens<2>>::Shared) == 65840, "say the new size in the manifest");

// Activations rounded to f16: half the tensor work.
extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_q8_0_prepare_f16(const MatmulArgs a) {
  matmul_prepare<Q8_0, 1>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_q8_0_many_f16(const MatmulArgs a) {
  matmul_many<Q8_0, 1>(product(a), a.scratch);
}

// Not rounded.
extern "C" __global__ void __launch_bounds__(kPrepareThreads) matmul_q8_0_prepare(const MatmulArgs a) {
  matmul_prepare<Q8_0, 2>(product(a), a.scratch);
}

extern "C" __global__ void __launch_bounds__(kManyThreads, 1) matmul_q8_0_many(const MatmulArgs a) {
  matmul_many<Q8_0, 2>(product(a), a.scratch);
}
