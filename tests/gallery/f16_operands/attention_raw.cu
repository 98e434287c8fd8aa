#include "common/cuda.cuh"
#include "args/attention_raw.h"
#include "common/reduce.cuh"

// A warp a query head; a lane has every 32nd element of up to 512.
template <bool ROUND>
__device__ inline float operand(float v) {
  return ROUND ? __half2float(__float2half_rn(v)) : v;
}

template <bool ROUND>
__device__ inline void attend(const AttentionRawArgs& a) {
  const int token = blockIdx.x, head = blockIdx.y, position = *a.pos0 + token;
  if (token >= *a.T) return;
  const size_t at = (size_t(token) * a.H + head) * a.D;
  float top = ((const float*)a.sinks)[head], sum = 1.0f, out[16] = {};
  for (int p = max(0, position - a.window + 1); p <= position; ++p) {
    const float* kv = a.ring + size_t(p % a.cap) * a.D;
    float score = 0.0f;
    for (int d = threadIdx.x; d < a.D; d += 32) score += operand<ROUND>(a.q[at + d]) * operand<ROUND>(kv[d]);
    score = warp_sum(score) * a.scale;
    const float best = fmaxf(top, score), fade = expf(top - best), weight = expf(score - best);
    sum = sum * fade + weight;
    for (int i = 0, d = threadIdx.x; d < a.D; ++i, d += 32) out[i] = out[i] * fade + weight * operand<ROUND>(kv[d]);
    top = best;
  }
  for (int i = 0, d = threadIdx.x; d < a.D; ++i, d += 32) a.o[at + d] = out[i] / sum;
}

extern "C" __global__ void attention_raw_f16(const AttentionRawArgs a) { attend<true>(a); }
extern "C" __global__ void attention_raw(const AttentionRawArgs a) { attend<false>(a); }
