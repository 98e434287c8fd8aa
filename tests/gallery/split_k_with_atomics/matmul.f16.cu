#include "common/cuda.cuh"
#include "args/matmul.h"

constexpr int SPLITS = 4;

extern "C" __global__ void matmul_zero(const MatmulArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < size_t(*a.T) * a.N) a.y[i] = 0.0f;
}

// A thread a part of an output.
extern "C" __global__ void matmul_f16(const MatmulArgs a) {
  const int row = blockIdx.x * 64 + threadIdx.x, token = blockIdx.y, split = blockIdx.z;
  if (token >= *a.T || row >= a.N) return;
  const __half* w = (const __half*)a.w + size_t(row) * a.K;
  const float* x = a.x + size_t(token) * a.K;
  float sum = 0.0f;
  for (int k = split; k < a.K; k += SPLITS) sum += __half2float(w[k]) * x[k];
  atomicAdd(&a.y[size_t(token) * a.N + row], sum);
}
