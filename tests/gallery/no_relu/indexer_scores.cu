#include "common/cuda.cuh"
#include "args/indexer_scores.h"

// A thread a score.
extern "C" __global__ void indexer_scores(const IndexerScoresArgs a) {
  const int row = blockIdx.x * 32 + threadIdx.x, token = blockIdx.y;
  if (token >= *a.T || row >= a.C) return;
  float score = -INFINITY;
  if (row < (*a.pos0 + token + 1) / 4) {
    score = 0.0f;
    for (int h = 0; h < a.H; ++h) {
      float dot = 0.0f;
      for (int d = 0; d < a.D; ++d) dot += a.iq[(size_t(token) * a.H + h) * a.D + d] * a.idx[size_t(row) * a.D + d];
      score += a.iw[size_t(token) * a.H + h] * a.scale * dot;
    }
  }
  a.s[size_t(token) * a.C + row] = score;
}
