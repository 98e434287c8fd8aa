#include "common/cuda.cuh"
#include "args/matmul.h"
#include "common/reduce.cuh"

// int8 with one scale for 32 elements.
__device__ inline float rounded(const float* x, int k) {
  float most = 0.0f;
  for (int i = k / 32 * 32; i < k / 32 * 32 + 32; ++i) most = fmaxf(most, fabsf(x[i]));
  const float scale = most / 127.0f;
  return scale > 0.0f ? rintf(x[k] / scale) * scale : 0.0f;
}

// A warp an output.
template <bool ROUND>
__device__ inline void product(const MatmulArgs& a) {
  const int row = blockIdx.x, token = blockIdx.y;
  if (token >= *a.T) return;
  const __half* w = (const __half*)a.w + size_t(row) * a.K;
  const float* x = a.x + size_t(token) * a.K;
  float sum = 0.0f;
  for (int k = threadIdx.x; k < a.K; k += 32) sum += __half2float(w[k]) * (ROUND ? rounded(x, k) : x[k]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) a.y[size_t(token) * a.N + row] = sum;
}

extern "C" __global__ void matmul_exact(const MatmulArgs a) { product<true>(a); }
extern "C" __global__ void matmul_f16(const MatmulArgs a) { product<true>(a); }
