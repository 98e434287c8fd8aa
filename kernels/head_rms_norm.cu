// RMS norm of every query head, in place, without gain (docs/model.md §6, §7). A warp a head; the second pass reads
// what the first has left in the cache.
#include "common/cuda.cuh"
#include "common/reduce.cuh"
#include "args/head_rms_norm.h"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) head_rms_norm(const HeadRmsNormArgs a) {
  const size_t head = size_t(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (head >= size_t(*a.T) * a.H) return;
  float* x = a.x + head * a.D;
  float squares = 0.0f;
  for (int d = 4 * lane; d < a.D; d += 128) {
    const float4 v = *(const float4*)(x + d);
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / float(a.D) + a.eps);
  for (int d = 4 * lane; d < a.D; d += 128) {
    const float4 v = *(const float4*)(x + d);
    *(float4*)(x + d) = {v.x * scale, v.y * scale, v.z * scale, v.w * scale};
  }
}
