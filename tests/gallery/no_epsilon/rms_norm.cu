#include "common/cuda.cuh"
#include "args/rms_norm.h"
#include "common/reduce.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + size_t(row) * a.D;
  float* y = a.y + size_t(row) * a.D;
  const float* w = (const float*)a.w;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < a.D; i += THREADS) sum += x[i] * x[i];
  const float scale = 1.0f / sqrtf(block_sum<THREADS>(sum) / a.D);
  for (int i = threadIdx.x; i < a.D; i += THREADS) y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}
