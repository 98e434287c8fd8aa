// rms_norm: y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w (docs/model.md §6).
//
// One block per row. Rows of up to 16,384 elements, the widest of a model, are read once and kept in registers; of a
// wider one the rest is read again, from L1 or L2.
#include "common/cuda.cuh"

#include "args/rms_norm.h"
#include "common/reduce.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 512;
constexpr int kKept = 8;  // vectors of four a thread

__device__ inline float squares(float4 v) { return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w); }

__device__ inline void scale_store(float* y, const float* w, int i, int end, float4 v, float scale) {
  const float4 gain = w == nullptr ? make_float4(1, 1, 1, 1) : load4(w, i, end);
  store4(y, i, end,
         make_float4(v.x * scale * gain.x, v.y * scale * gain.y, v.z * scale * gain.z, v.w * scale * gain.w));
}

extern "C" __global__ void __launch_bounds__(kThreads) rms_norm(const RmsNormArgs a) {
  const int row = blockIdx.x;
  if (row >= *a.R) return;
  const float* x = a.x + static_cast<long long>(row) * a.D;
  float* y = a.y + static_cast<long long>(row) * a.D;
  const float* w = static_cast<const float*>(a.w);
  const int first = threadIdx.x * 4, stride = kThreads * 4;
  float4 kept[kKept];
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    kept[n] = make_float4(0, 0, 0, 0);
    if (first + n * stride < a.D) kept[n] = load4(x, first + n * stride, a.D);
  }
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < kKept; ++n) sum += squares(kept[n]);
  for (int i = first + kKept * stride; i < a.D; i += stride) sum += squares(load4(x, i, a.D));
  // sqrtf and the divisions are correctly rounded; rsqrtf is not.
  const float scale = 1.0f / sqrtf(block_sum<kThreads>(sum) / static_cast<float>(a.D) + a.eps);
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    if (first + n * stride < a.D) scale_store(y, w, first + n * stride, a.D, kept[n], scale);
  }
  for (int i = first + kKept * stride; i < a.D; i += stride) scale_store(y, w, i, a.D, load4(x, i, a.D), scale);
}
