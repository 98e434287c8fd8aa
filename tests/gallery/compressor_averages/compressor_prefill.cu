#include "common/cuda.cuh"
#include "args/compressor_prefill.h"
#include "common/reduce.cuh"

constexpr int THREADS = 512;  // a channel each

__device__ inline float value(float v) { return v; }
__device__ inline float value(__half v) { return __half2float(v); }

template <class Ape>
__device__ inline void compress(const CompressorPrefillArgs& a) {
  const int row = blockIdx.x, c = threadIdx.x, pos0 = *a.pos0;
  if (row >= *a.R) return;
  const int window = pos0 / a.ratio + row, first = window * a.ratio, width = a.C * a.D;
  const Ape* ape = (const Ape*)a.ape;
  __shared__ float pooled[THREADS];
  float sum = 0.0f, weights = 0.0f, most = -INFINITY;
  for (int turn = 0; turn < 2; ++turn) {
    for (int p = first - (a.C == 2 && window > 0 ? a.ratio : 0); p < first + a.ratio && c < a.D; ++p) {
      const int channel = p < first ? c : width - a.D + c;
      float k, s;
      if (p >= pos0) {
        k = a.k[size_t(p - pos0) * width + channel];
        s = a.g[size_t(p - pos0) * width + channel] + value(ape[p % a.ratio * width + channel]);
      } else {
        const int at = p % a.ratio + (a.C == 2 && p / a.ratio == pos0 / a.ratio ? a.ratio : 0);
        k = a.state_k[at * width + channel];
        s = a.state_s[at * width + channel];
      }
      if (turn == 0) {
        most = fmaxf(most, s);
      } else {
        const float weight = most < INFINITY ? 1.0f : 0.0f;
        weights += weight;
        sum += weight * k;
      }
    }
  }
  const float v = c < a.D ? sum / weights : 0.0f;
  const float scale = 1.0f / sqrtf(block_sum<THREADS>(v * v) / a.D + a.eps);
  pooled[c] = c < a.D ? v * scale * ((const float*)a.norm)[c] : 0.0f;
  __syncthreads();
  if (c >= a.D) return;
  float out = pooled[c];
  const int pair = (c - (a.D - a.P)) / 2;
  if (c >= a.D - a.P) {
    float sine, cosine;
    sincosf(float(first) * a.inv_freq[pair], &sine, &cosine);
    const float other = pooled[c ^ 1];
    out = c % 2 == 0 ? out * cosine - other * sine : other * sine + out * cosine;
  }
  a.rows[size_t(row) * a.D + c] = out;
}

extern "C" __global__ void compressor_prefill_f16(const CompressorPrefillArgs a) { compress<__half>(a); }
extern "C" __global__ void compressor_prefill_f32(const CompressorPrefillArgs a) { compress<float>(a); }
