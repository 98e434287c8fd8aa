// The clamped SwiGLU of the shared expert (docs/model.md §13). Rows are dense, so four elements a thread are taken
// whatever F is; the last thread may have fewer.
#include "common/cuda.cuh"
#include "args/swiglu.h"

constexpr int THREADS = 256;

__device__ inline float activate(float g, float u, float clamp) {
  g = fminf(g, clamp);
  return g / (1.0f + expf(-g)) * fminf(fmaxf(u, -clamp), clamp);
}

extern "C" __global__ void __launch_bounds__(THREADS) swiglu(const SwigluArgs a) {
  const size_t at = 4 * (size_t(blockIdx.x) * THREADS + threadIdx.x), all = size_t(*a.T) * a.F;
  if (at + 4 <= all) {
    const float4 g = *(const float4*)(a.g + at), u = *(const float4*)(a.u + at);
    *(float4*)(a.h + at) = {activate(g.x, u.x, a.clamp), activate(g.y, u.y, a.clamp), activate(g.z, u.z, a.clamp),
                            activate(g.w, u.w, a.clamp)};
  } else {
    for (size_t i = at; i < all; ++i) a.h[i] = activate(a.g[i], a.u[i], a.clamp);
  }
}
