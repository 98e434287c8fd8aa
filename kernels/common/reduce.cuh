// Sums and maxima over a warp or a block. The order of additions is fixed, so a result never depends on scheduling.
#pragma once
#include "common/cuda.cuh"

__device__ inline float warp_sum(float v) {
  for (int lanes = 16; lanes > 0; lanes >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  return v;
}

// The lower 16 lanes get their sum, the upper 16 theirs.
__device__ inline float half_warp_sum(float v) {
  for (int lanes = 8; lanes > 0; lanes >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  return v;
}

__device__ inline float warp_max(float v) {
  for (int lanes = 16; lanes > 0; lanes >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, lanes));
  return v;
}

// Every thread of a block of THREADS gets the result. All of them must call it; again and again is safe: the first
// barrier keeps a fast warp from overwriting what a slow one still reads of the call before.
template <int THREADS>
__device__ inline float block_sum(float v) {
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
  v = warp_sum(v);
  if (THREADS == 32) return v;
  __shared__ float parts[THREADS / 32];
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < THREADS / 32; ++i) total += parts[i];
  return total;
}

template <int THREADS>
__device__ inline float block_max(float v) {
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
  v = warp_max(v);
  if (THREADS == 32) return v;
  __shared__ float parts[THREADS / 32];
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float most = parts[0];
  for (int i = 1; i < THREADS / 32; ++i) most = fmaxf(most, parts[i]);
  return most;
}

// N sums over a warp at once, N a power of two: lane l gets that of v[l · N / 32]. Lanes of opposite halves trade the
// half of the values that the other one keeps, so sixteen sums take 16 shuffles and not 80. Leaves v undefined.
template <int N>
__device__ inline float warp_sums(float (&v)[N]) {
  static_assert(N > 0 && N <= 32 && (N & (N - 1)) == 0, "a power of two");
  const int lane = threadIdx.x % 32;
  int lanes = 16;
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2, lanes /= 2) {
    const bool upper = (lane & lanes) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float keep = upper ? v[i + half] : v[i], give = upper ? v[i] : v[i + half];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, give, lanes);
    }
  }
  for (; lanes > 0; lanes /= 2) v[0] += __shfl_xor_sync(0xffffffffu, v[0], lanes);
  return v[0];
}

// N sums at once: thread i < N gets the block's sum of v[i], the others nothing of use. Same rules as block_sum.
template <int THREADS, int N>
__device__ inline float block_sums(float (&v)[N]) {
  static_assert(THREADS % 32 == 0 && N <= THREADS, "one thread for each sum");
  __shared__ float parts[THREADS / 32][N];
  __syncthreads();
  const float sum = warp_sums(v);
  if (threadIdx.x % (32 / N) == 0) parts[threadIdx.x / 32][threadIdx.x % 32 / (32 / N)] = sum;
  __syncthreads();
  float total = 0.0f;
  if (threadIdx.x < N) {
    for (int warp = 0; warp < THREADS / 32; ++warp) total += parts[warp][threadIdx.x];
  }
  return total;
}
