// Stream weights of the output head (docs/model.md §5).
#include "common/cuda.cuh"
#include "args/output_hc_weights.h"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS) output_hc_weights(const OutputHcWeightsArgs a) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= *a.R * a.S) return;
  const float x = a.p[i] * *(const float*)a.scale + ((const float*)a.base)[i % a.S];
  a.w[i] = 1.0f / (1.0f + expf(-x)) + a.eps;
}
