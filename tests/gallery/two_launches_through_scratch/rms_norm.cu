#include "common/cuda.cuh"
#include "args/rms_norm.h"
#include "common/reduce.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void rms_norm_factor(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + size_t(row) * a.D;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < a.D; i += THREADS) sum += x[i] * x[i];
  sum = block_sum<THREADS>(sum);
  if (threadIdx.x == 0) ((float*)a.scratch)[row] = 1.0f / sqrtf(sum / a.D + a.eps);
}

extern "C" __global__ void rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* w = (const float*)a.w;
  const float scale = ((const float*)a.scratch)[row];
  for (int i = threadIdx.x; i < a.D; i += THREADS) {
    const size_t at = size_t(row) * a.D + i;
    a.y[at] = a.x[at] * scale * (w ? w[i] : 1.0f);
  }
}
