#include "common/cuda.cuh"
#include "args/rms_norm.h"

constexpr int THREADS = 256;

extern "C" __global__ void rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + size_t(row) * a.D;
  float* y = a.y + size_t(row) * a.D;
  const float* w = (const float*)a.w;
  __shared__ float parts[THREADS];
  const int stretch = (a.D + THREADS - 1) / THREADS, from = threadIdx.x * stretch;
  float sum = 0.0f;
  for (int i = min(from + stretch, a.D) - 1; i >= from; --i) sum += x[i] * x[i];
  parts[threadIdx.x] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int i = THREADS - 1; i >= 0; --i) total += parts[i];
  const float scale = 1.0f / sqrtf(total / a.D + a.eps);
  for (int i = threadIdx.x; i < a.D; i += THREADS) y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}
