#include "common/cuda.cuh"
#include "args/rope_tail.h"

extern "C" __global__ void rope_tail(const RopeTailArgs a) {
  const int token = blockIdx.x, head = blockIdx.y;
  if (token >= *a.T) return;
  float* x = a.x + (size_t(token) * a.H + head) * a.D + a.D - a.P;
  for (int i = threadIdx.x; i < a.P / 2; i += 32) {
    float sine, cosine;
    sincosf(float(token) * a.inv_freq[i], &sine, &cosine);
    if (a.inverse) sine = -sine;
    const float even = x[2 * i], odd = x[2 * i + 1];
    x[2 * i] = even * cosine - odd * sine;
    x[2 * i + 1] = even * sine + odd * cosine;
  }
}
