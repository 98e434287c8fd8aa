// rope_tail: rotates the pairs (2i, 2i + 1) of the last P dims of every head by (pos0 + t) · inv_freq[i], in place,
// back when `inverse` (docs/model.md §9).
//
// A lane keeps one pair's cosine and sine and walks over heads, so a warp turns a whole tail of 64 at once. The angle
// is the f32 product of position and frequency and reaches 10^6 radians; sincosf reduces it exactly, where __sincosf
// would be off by more than the angle's own rounding.
#include "common/cuda.cuh"

#include "args/rope_tail.h"

constexpr int kThreads = 256;
constexpr int kHeads = 32;  // of a block: four for each warp

extern "C" __global__ void __launch_bounds__(kThreads) rope_tail(const RopeTailArgs a) {
  const int token = blockIdx.x, head0 = blockIdx.y * kHeads;
  if (token >= *a.T) return;
  const float position = static_cast<float>(*a.pos0 + token);
  for (int pair = threadIdx.x % 32; pair < a.P / 2; pair += 32) {
    float sine, cosine;
    sincosf(position * a.inv_freq[pair], &sine, &cosine);
    if (a.inverse) sine = -sine;
    for (int head = head0 + threadIdx.x / 32; head < min(head0 + kHeads, a.H); head += kThreads / 32) {
      float* x = a.x + (static_cast<long long>(token) * a.H + head) * a.D + a.D - a.P + 2 * pair;
      const float even = x[0], odd = x[1];
      x[0] = even * cosine - odd * sine;
      x[1] = even * sine + odd * cosine;
    }
  }
}
