#include "common/cuda.cuh"
#include "args/rms_norm.h"

extern "C" __global__ void rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R || threadIdx.x >= 32) return;
  const float* x = a.x + size_t(row) * a.D;
  float* y = a.y + size_t(row) * a.D;
  const float* w = (const float*)a.w;
  float sum = 0.0f, lost = 0.0f;
  for (int i = threadIdx.x; i < a.D; i += 32) {
    const float term = __fmaf_rn(x[i], x[i], -lost), next = __fadd_rn(sum, term);
    lost = __fsub_rn(__fsub_rn(next, sum), term);
    sum = next;
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_down_sync(0xffffffffu, sum, lanes);
  sum = __shfl_sync(0xffffffffu, sum, 0);
  const float scale = 1.0f / sqrtf(sum / a.D + a.eps);
  for (int i = threadIdx.x; i < a.D; i += 32) y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}
