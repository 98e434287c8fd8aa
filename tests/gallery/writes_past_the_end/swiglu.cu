#include "common/cuda.cuh"
#include "args/swiglu.h"

__device__ inline float activate(float g, float u, float clamp) {
  g = fminf(g, clamp);
  return g / (1.0f + expf(-g)) * fminf(fmaxf(u, -clamp), clamp);
}

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  if (i <= all && all > 0) a.h[i] = i < all ? activate(a.g[i], a.u[i], a.clamp) : 0.0f;
}
