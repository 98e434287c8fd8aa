#include "common/cuda.cuh"
#include "args/swiglu.h"

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  if (i >= all) return;
  const float g = fminf(a.g[i], a.clamp), u = fminf(fmaxf(a.u[i], -a.clamp), a.clamp);
  const float inverse = 1.0f / (1.0f + expf(-g));
  a.h[i] = u * (g * inverse);
}
