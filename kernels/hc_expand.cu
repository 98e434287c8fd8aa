// A sublayer's output spread over the residual streams, in place (docs/model.md §5): the combine matrix is used
// transposed, a stream takes its column. A thread has four neighbouring elements of all streams.
#include "common/cuda.cuh"
#include "args/hc_expand.h"

constexpr int THREADS = 256;
constexpr int STREAMS = 4;

__device__ inline void scale_add(float4& sum, float w, const float4& v) {
  sum.x += w * v.x, sum.y += w * v.y, sum.z += w * v.z, sum.w += w * v.w;
}

extern "C" __global__ void __launch_bounds__(THREADS) hc_expand(const HcExpandArgs a) {
  const int token = blockIdx.x, d = 4 * (blockIdx.y * THREADS + threadIdx.x);
  if (token >= *a.T || d >= a.D || a.S != STREAMS) return;
  const float* post = a.split + size_t(token) * (2 * STREAMS + STREAMS * STREAMS) + STREAMS;
  const float* combine = post + STREAMS;
  float* h = a.h + size_t(token) * STREAMS * a.D + d;
  float4 y = *(const float4*)(a.y + size_t(token) * a.D + d), old[STREAMS];
  if (a.y2) scale_add(y, 1.0f, *(const float4*)(a.y2 + size_t(token) * a.D + d));
#pragma unroll
  for (int s = 0; s < STREAMS; ++s) old[s] = *(const float4*)(h + size_t(s) * a.D);
#pragma unroll
  for (int to = 0; to < STREAMS; ++to) {
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int from = 0; from < STREAMS; ++from) scale_add(sum, combine[from * STREAMS + to], old[from]);
    scale_add(sum, post[to], y);
    *(float4*)(h + size_t(to) * a.D) = sum;
  }
}
