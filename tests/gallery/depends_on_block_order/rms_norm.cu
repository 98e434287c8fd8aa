#include "common/cuda.cuh"
#include "args/rms_norm.h"
#include "common/reduce.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + size_t(row) * a.D;
  const float* w = (const float*)a.w;
  float* total = (float*)a.scratch + row;
  if (blockIdx.y == 0) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < a.D; i += THREADS) sum += x[i] * x[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *total = sum;
  } else {
    const float scale = 1.0f / sqrtf(*total / a.D + a.eps);
    for (int i = threadIdx.x; i < a.D; i += THREADS) a.y[size_t(row) * a.D + i] = x[i] * scale * (w ? w[i] : 1.0f);
  }
}
