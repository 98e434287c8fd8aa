// y[n] = Σ_k w[n][k] x[k] on f32, one warp a row; and an empty block of 256 threads.
#include "common/cuda.cuh"

struct Args {
  const float* w;
  const float* x;
  float* y;
  int k;
};

extern "C" __global__ void gemv(const Args p) {
  const float* row = p.w + (size_t)blockIdx.x * p.k;
  float sum = 0;
  for (int i = threadIdx.x; i < p.k; i += 32) sum += row[i] * p.x[i];
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x == 0) p.y[blockIdx.x] = sum;
}

extern "C" __global__ void empty(const Args p) {
  if (p.k == -1) p.y[0] = 0;
}

extern "C" __global__ void barriers(const Args p) {
  for (int i = 0; i < p.k; i++) __syncthreads();
}
