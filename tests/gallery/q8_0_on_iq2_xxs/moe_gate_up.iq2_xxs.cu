#include "common/cuda.cuh"
#include "args/moe_gate_up.h"
#include "common/reduce.cuh"

__device__ inline float dequantise(const void* w, size_t row, int width, int k) {
  const unsigned char* block = (const unsigned char*)w + (row * width + k) / 32 * 34;
  return __half2float(*(const __half*)block) * (float)(signed char)block[2 + k % 32];
}

// A warp an output.
extern "C" __global__ void moe_gate_up(const MoeGateUpArgs a) {
  const int f = blockIdx.x, slot = blockIdx.y, token = blockIdx.z;
  if (token >= *a.T) return;
  const size_t pair = size_t(token) * a.U + slot, row = size_t(a.sel[pair]) * a.F + f;
  const float* x = a.x + size_t(token) * a.K;
  float g = 0.0f, u = 0.0f;
  for (int k = threadIdx.x; k < a.K; k += 32) {
    g += dequantise(a.gate, row, a.K, k) * x[k];
    u += dequantise(a.up, row, a.K, k) * x[k];
  }
  g = fminf(warp_sum(g), a.clamp);
  u = fminf(fmaxf(warp_sum(u), -a.clamp), a.clamp);
  if (threadIdx.x == 0) a.mid[pair * a.F + f] = g / (1.0f + expf(-g)) * u * a.w[pair];
}
