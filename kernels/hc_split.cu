// Hyper-connection weights of a sublayer: pre, post and the Sinkhorn-normalised combine matrix (docs/model.md §5).
//
// Sixteen lanes a token, one entry of the 4×4 matrix each, lane = 4·row + column: a row's sum is two shuffles among
// neighbours, a column's two among lanes four apart. Lanes 0..7 of the sixteen also make pre and post.
#include "common/cuda.cuh"
#include "args/hc_split.h"

constexpr int THREADS = 128;
constexpr int STREAMS = 4;
constexpr int WIDTH = 2 * STREAMS + STREAMS * STREAMS;

__device__ inline float sum_over(float v, int a, int b) {
  v += __shfl_xor_sync(0xffffffffu, v, a);
  return v + __shfl_xor_sync(0xffffffffu, v, b);
}

extern "C" __global__ void __launch_bounds__(THREADS) hc_split(const HcSplitArgs a) {
  const int token = blockIdx.x * (THREADS / 16) + threadIdx.x / 16, entry = threadIdx.x % 16;
  const bool live = token < *a.T;  // a half-warp past the end still shuffles
  if (a.S != STREAMS) return;
  const float* mix = a.mix + size_t(live ? token : 0) * WIDTH;
  float* out = a.split + size_t(token) * WIDTH;
  const float* scale = (const float*)a.scale;
  const float* base = (const float*)a.base;

  if (live && entry < 2 * STREAMS) {
    const bool post = entry >= STREAMS;
    const float gate = 1.0f / (1.0f + expf(-(mix[entry] * scale[post] + base[entry])));
    out[entry] = post ? 2.0f * gate : gate + a.eps;
  }

  const int i = 2 * STREAMS + entry;
  float c = live ? mix[i] * scale[2] + base[i] : 0.0f;
  float top = fmaxf(c, __shfl_xor_sync(0xffffffffu, c, 1));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  c = expf(c - top);
  c = c / sum_over(c, 1, 2) + a.eps;
  c /= sum_over(c, 4, 8) + a.eps;
  for (int n = 1; n < a.iterations; ++n) {
    c /= sum_over(c, 1, 2) + a.eps;
    c /= sum_over(c, 4, 8) + a.eps;
  }
  if (live) out[i] = c;
}
