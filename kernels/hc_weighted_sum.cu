// Residual streams reduced to one row (docs/model.md §5). blockIdx.x counts rows, blockIdx.y pieces of a row.
#include "common/cuda.cuh"
#include "args/hc_weighted_sum.h"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) hc_weighted_sum(const HcWeightedSumArgs a) {
  const int row = blockIdx.x, d = 4 * (blockIdx.y * THREADS + threadIdx.x);
  if (row >= *a.R || d >= a.D) return;
  const float* h = a.h + size_t(row) * a.S * a.D + d;
  const float* w = a.w + size_t(row) * a.W;
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int s = 0; s < a.S; ++s) {
    const float4 v = *(const float4*)(h + size_t(s) * a.D);
    sum.x += w[s] * v.x, sum.y += w[s] * v.y, sum.z += w[s] * v.z, sum.w += w[s] * v.w;
  }
  *(float4*)(a.x + size_t(row) * a.D + d) = sum;
}
