#include "common/cuda.cuh"
#include "args/swiglu.h"

__device__ inline float activate(float g, float u, float clamp) {
  g = fminf(g, clamp);
  return g / (1.0f + expf(-g)) * fminf(fmaxf(u, -clamp), clamp);
}

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  const size_t at = 4 * i;
  if (at + 4 > all) return;
  const float4 g = *(const float4*)(a.g + at), u = *(const float4*)(a.u + at);
  *(float4*)(a.h + at) = {activate(g.x, u.x, a.clamp), activate(g.y, u.y, a.clamp), activate(g.z, u.z, a.clamp),
                          activate(g.w, u.w, a.clamp)};
}
