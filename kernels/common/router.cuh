// What the two routers share: the score and the normalised weights (docs/model.md §13).
#pragma once

#include "common/cuda.cuh"
#include "common/reduce.cuh"

namespace router {

// sqrt(softplus(x)); past 20 softplus is x itself.
__device__ inline float score(float x) { return sqrtf(x > 20.0f ? x : log1pf(expf(x))); }

// Weights of one token's `used` experts, whose logits stand in logits[sel[i]]. A warp takes part as a whole.
__device__ inline void weigh(const float* logits, const int* sel, float* w, int used, float scale, float floor,
                             bool normalise) {
  const int lane = threadIdx.x % 32;
  float sum = 0.0f;
  for (int i = lane; i < used; i += 32) sum += score(logits[sel[i]]);
  sum = normalise ? fmaxf(warp_sum(sum), floor) : 1.0f;
  for (int i = lane; i < used; i += 32) w[i] = score(logits[sel[i]]) / sum * scale;
}

}  // namespace router
