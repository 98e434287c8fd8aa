#include "common/cuda.cuh"
#include "args/swiglu.h"

__device__ inline float activate(float g, float u, float clamp) {
  g = fminf(g, clamp);
  return g / (1.0f + expf(-g)) * fminf(fmaxf(u, -clamp), clamp);
}

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  const int token = min(int(i / a.F), max(*a.T, 1) - 1);
  const size_t at = size_t(token) * a.F + i % a.F;
  a.h[at] = activate(a.g[at], a.u[at], a.clamp);
}
