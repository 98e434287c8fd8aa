// rms_norm: y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w (docs/model.md §6).
//
// One block per row. The row is read twice, the second time from L1 or L2: rows of any width fit, and no width is
// written into the kernel.
#include "common/cuda.cuh"

#include "args/rms_norm.h"
#include "common/reduce.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 256;

extern "C" __global__ void __launch_bounds__(kThreads) rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + static_cast<long long>(row) * a.D;
  float* y = a.y + static_cast<long long>(row) * a.D;
  const float* w = static_cast<const float*>(a.w);
  float sum = 0.0f;
  for (int i = threadIdx.x * 4; i < a.D; i += kThreads * 4) {
    const float4 v = load4(x, i, a.D);
    sum += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
  }
  // sqrtf and the divisions are correctly rounded; rsqrtf is not.
  const float scale = 1.0f / sqrtf(block_sum<kThreads>(sum) / static_cast<float>(a.D) + a.eps);
  for (int i = threadIdx.x * 4; i < a.D; i += kThreads * 4) {
    const float4 v = load4(x, i, a.D);
    const float4 gain = w == nullptr ? make_float4(1, 1, 1, 1) : load4(w, i, a.D);
    store4(y, i, a.D,
           make_float4(v.x * scale * gain.x, v.y * scale * gain.y, v.z * scale * gain.z, v.w * scale * gain.w));
  }
}
