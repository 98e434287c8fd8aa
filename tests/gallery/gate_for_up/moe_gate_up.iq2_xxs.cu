#include "common/cuda.cuh"
#include "args/moe_gate_up.h"
#include "common/reduce.cuh"
#include "quant/iq2_xxs.cuh"

// A warp an output.
extern "C" __global__ void moe_gate_up(const MoeGateUpArgs a) {
  const int f = blockIdx.x, slot = blockIdx.y, token = blockIdx.z;
  if (token >= *a.T) return;
  const size_t pair = size_t(token) * a.U + slot, row = size_t(a.sel[pair]) * a.F + f;
  const float* x = a.x + size_t(token) * a.K;
  float g = 0.0f, u = 0.0f;
  const size_t bytes = size_t(a.K) / 256 * 66;
  const u8* gate = (const u8*)a.gate + row * bytes;
  const u8* up = (const u8*)a.up + row * bytes;
  for (int k = 16 * threadIdx.x; k < a.K; k += 16 * 32) {
    float q[16], scale, min;
    IQ2_XXS::floats(IQ2_XXS::load(gate, k, a.K), q, scale, min);
    for (int i = 0; i < 16; ++i) g += scale * q[i] * x[k + i];
    IQ2_XXS::floats(IQ2_XXS::load(gate, k, a.K), q, scale, min);
    for (int i = 0; i < 16; ++i) u += scale * q[i] * x[k + i];
  }
  g = fminf(warp_sum(g), a.clamp);
  u = fminf(fmaxf(warp_sum(u), -a.clamp), a.clamp);
  if (threadIdx.x == 0) a.mid[pair * a.F + f] = g / (1.0f + expf(-g)) * u * a.w[pair];
}
