#include "common/cuda.cuh"
#include "args/rope_tail.h"

extern "C" __global__ void rope_tail(const RopeTailArgs a) {
  const int token = blockIdx.x, head = blockIdx.y;
  if (token >= *a.T) return;
  float* x = a.x + (size_t(token) * a.H + head) * a.D + a.D - a.P;
  for (int i = threadIdx.x; i < a.P / 2; i += 32) {
    float sine, cosine;
    sincosf(float(*a.pos0 + token) * a.inv_freq[i], &sine, &cosine);
    if (a.inverse) sine = -sine;
    const float even = x[i], odd = x[i + a.P / 2];
    x[i] = even * cosine - odd * sine;
    x[i + a.P / 2] = even * sine + odd * cosine;
  }
}
