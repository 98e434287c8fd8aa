// Brings the compressor's state from pos0 to pos0 + T (docs/model.md §10).
//
// Only one row ever moves: with two halves, row `ratio + place` of the window under way becomes row `place` once that
// window is complete. So a thread owns one channel of one place: it writes row `place` first, then the row behind it.
#include "common/cuda.cuh"
#include "args/compressor_state.h"

constexpr int THREADS = 128;
constexpr float EMPTY_SCORE = -1e30f;  // a row that holds no token; its candidate is 0

__device__ inline float as_float(float v) { return v; }
__device__ inline float as_float(__half v) { return __half2float(v); }

template <class Ape>
__device__ inline void advance(const CompressorStateArgs& a) {
  const int channel = blockIdx.x * THREADS + threadIdx.x, place = blockIdx.y, width = a.C * a.D;
  if (channel >= width) return;
  const int pos0 = *a.pos0, end = pos0 + *a.T, under_way = end / a.ratio * a.ratio;
  const float bias = as_float(((const Ape*)a.ape)[size_t(place) * width + channel]);

  for (int row = place; row < a.C * a.ratio; row += a.ratio) {
    const bool complete = a.C == 2 && row < a.ratio;  // a row of the last complete window
    const int position = under_way + place - (complete ? a.ratio : 0);
    const size_t to = size_t(row) * width + channel;
    if (position < 0 || position >= end) {
      a.state_k[to] = 0.0f, a.state_s[to] = EMPTY_SCORE;
    } else if (position >= pos0) {
      const size_t at = size_t(position - pos0) * width + channel;
      a.state_k[to] = a.k[at], a.state_s[to] = a.g[at] + bias;
    } else if (complete && position / a.ratio == pos0 / a.ratio) {
      const size_t from = to + size_t(a.ratio) * width;
      a.state_k[to] = a.state_k[from], a.state_s[to] = a.state_s[from];
    }  // else it stands there already
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) compressor_state_f16(const CompressorStateArgs a) {
  advance<__half>(a);
}

extern "C" __global__ void __launch_bounds__(THREADS) compressor_state_f32(const CompressorStateArgs a) {
  advance<float>(a);
}
