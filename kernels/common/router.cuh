// What the two routers share: the score and the normalised weights (docs/model.md §13).
#pragma once

#include "common/cuda.cuh"
#include "common/reduce.cuh"

namespace router {

// sqrt(softplus(x)); past 20 softplus is x itself.
__device__ inline float score(float x) { return sqrtf(x > 20.0f ? x : log1pf(expf(x))); }

// Weights of one token's `used` experts; score_of(i) is that of the i-th. A warp takes part as a whole.
template <class Score>
__device__ inline void weigh(const Score& score_of, float* w, int used, float scale, float floor, bool normalise) {
  const int lane = threadIdx.x % 32;
  float sum = 0.0f;
  for (int i = lane; i < used; i += 32) sum += score_of(i);
  sum = normalise ? fmaxf(warp_sum(sum), floor) : 1.0f;
  for (int i = lane; i < used; i += 32) w[i] = score_of(i) / sum * scale;
}

// The same from the logits of all experts.
__device__ inline void weigh(const float* logits, const int* sel, float* w, int used, float scale, float floor,
                             bool normalise) {
  weigh([&](int i) { return score(logits[sel[i]]); }, w, used, scale, floor, normalise);
}

}  // namespace router
