// Activation rows, 16 bytes at a time where the address allows it.
//
// Widths that a model file may have are multiples of 32, and buffers start on 256 bytes; yet contracts promise neither,
// so alignment is looked at, and what is not aligned is read element by element.
#pragma once
#include "common/cuda.cuh"

__device__ inline bool aligned16(const void* p) { return (reinterpret_cast<u64>(p) & 15) == 0; }

// x[i .. i + 4], zero from `end` on.
__device__ inline float4 load4(const float* x, int i, int end) {
  if (i + 4 <= end && aligned16(x + i)) return *reinterpret_cast<const float4*>(x + i);
  float4 v;
  v.x = i + 0 < end ? x[i + 0] : 0.0f;
  v.y = i + 1 < end ? x[i + 1] : 0.0f;
  v.z = i + 2 < end ? x[i + 2] : 0.0f;
  v.w = i + 3 < end ? x[i + 3] : 0.0f;
  return v;
}

// The inverse: nothing is written from `end` on.
__device__ inline void store4(float* y, int i, int end, float4 v) {
  if (i + 4 <= end && aligned16(y + i)) {
    *reinterpret_cast<float4*>(y + i) = v;
    return;
  }
  if (i + 0 < end) y[i + 0] = v.x;
  if (i + 1 < end) y[i + 1] = v.y;
  if (i + 2 < end) y[i + 2] = v.z;
  if (i + 3 < end) y[i + 3] = v.w;
}
