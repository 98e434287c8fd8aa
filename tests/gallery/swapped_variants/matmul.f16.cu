#include "common/cuda.cuh"
#include "args/matmul.h"
#include "common/reduce.cuh"

__device__ inline float rounded(float v) { return __half2float(__float2half_rn(v)); }

// A warp an output.
template <bool ROUND>
__device__ inline void product(const MatmulArgs& a) {
  const int row = blockIdx.x, token = blockIdx.y;
  if (token >= *a.T) return;
  const __half* w = (const __half*)a.w + size_t(row) * a.K;
  const float* x = a.x + size_t(token) * a.K;
  float sum = 0.0f;
  for (int k = threadIdx.x; k < a.K; k += 32) sum += __half2float(w[k]) * (ROUND ? rounded(x[k]) : x[k]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) a.y[size_t(token) * a.N + row] = sum;
}

extern "C" __global__ void matmul_exact(const MatmulArgs a) { product<true>(a); }
extern "C" __global__ void matmul_f16(const MatmulArgs a) { product<false>(a); }
