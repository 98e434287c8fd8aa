// One compressed row per window that this step completes: per channel a softmax over time of the candidates' scores,
// then RMS norm and RoPE at the window's first position (docs/model.md §10).
//
// One block a row. A thread has four neighbouring channels and every SLICES-th candidate, whose softmax it runs online;
// slices are merged through shared memory. With C = 2 the candidates are the first halves of the window before and the
// second halves of this one; tokens of earlier steps come from the state.
#include "common/cuda.cuh"
#include "common/reduce.cuh"
#include "args/compressor_prefill.h"

constexpr int THREADS = 512;

__device__ inline float4 load4(const float* p) { return *(const float4*)p; }

__device__ inline float4 load4(const __half* p) {
  return {__half2float(p[0]), __half2float(p[1]), __half2float(p[2]), __half2float(p[3])};
}

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

// Softmax under way in one channel.
struct Pool {
  float top, sum, value;  // Σ exp(s − top), Σ exp(s − top)·k

  __device__ void add(float score, float k) { merge({score, 1.0f, k}); }

  __device__ void merge(const Pool& other) {
    const float best = fmaxf(top, other.top);
    if (best == minus_infinity()) return;  // both empty: −inf − −inf is not a number
    const float mine = expf(top - best), theirs = expf(other.top - best);
    sum = sum * mine + other.sum * theirs;
    value = value * mine + other.value * theirs;
    top = best;
  }
};

template <class Ape>
__device__ inline void compress(const CompressorPrefillArgs& a) {
  const int pos0 = *a.pos0, window = pos0 / a.ratio + int(blockIdx.x);
  if (int(blockIdx.x) >= *a.R) return;
  const int width = a.C * a.D, quads = a.D / 4;
  if (quads > THREADS) return;
  const int slices = THREADS / quads, quad = threadIdx.x % quads, slice = threadIdx.x / quads;
  const Ape* ape = (const Ape*)a.ape;

  Pool pool[4];
  for (Pool& p : pool) p = {minus_infinity(), 0.0f, 0.0f};
  const int overlap = (a.C - 1) * a.ratio;  // candidates from the window before; window 0 has none
  const int start = window * a.ratio - overlap;
#pragma unroll 2
  for (int j = slice + (window == 0 ? overlap : 0); slice < slices && j < overlap + a.ratio; j += slices) {
    const int position = start + j, place = position % a.ratio;
    const int channel = (j < overlap ? 0 : width - a.D) + 4 * quad;
    float4 k, s;
    if (position >= pos0) {
      const size_t at = size_t(position - pos0) * width + channel;
      k = load4(a.k + at), s = load4(a.g + at);
      const float4 bias = load4(ape + place * width + channel);
      s = {s.x + bias.x, s.y + bias.y, s.z + bias.z, s.w + bias.w};
    } else {
      // With two halves the state keeps the last complete window first and the one under way behind it.
      const bool under_way = a.C == 2 && position / a.ratio == pos0 / a.ratio;
      const int at = (place + (under_way ? a.ratio : 0)) * width + channel;
      k = load4(a.state_k + at), s = load4(a.state_s + at);
    }
    pool[0].add(s.x, k.x), pool[1].add(s.y, k.y), pool[2].add(s.z, k.z), pool[3].add(s.w, k.w);
  }

  __shared__ Pool merged[THREADS][4];
  for (int i = 0; i < 4; ++i) merged[threadIdx.x][i] = pool[i];
  __syncthreads();
  const bool owner = slice == 0;
  float v[4] = {}, squares = 0.0f;
  if (owner) {
    for (int other = 1; other < slices; ++other)
      for (int i = 0; i < 4; ++i) pool[i].merge(merged[other * quads + quad][i]);
    for (int i = 0; i < 4; ++i) {
      v[i] = pool[i].value / pool[i].sum;
      squares += v[i] * v[i];
    }
  }
  const float inverse = 1.0f / sqrtf(block_sum<THREADS>(squares) / float(a.D) + a.eps);
  if (!owner) return;
  const float4 gain = load4((const float*)a.norm + 4 * quad);
  v[0] *= inverse * gain.x, v[1] *= inverse * gain.y, v[2] *= inverse * gain.z, v[3] *= inverse * gain.w;
  for (int i = 0; i < 4; i += 2) {
    const int pair = (4 * quad + i - (a.D - a.P)) / 2;
    if (4 * quad + i < a.D - a.P) continue;
    float sin, cos;
    sincosf(float(window * a.ratio) * a.inv_freq[pair], &sin, &cos);
    const float x = v[i], y = v[i + 1];
    v[i] = x * cos - y * sin;
    v[i + 1] = x * sin + y * cos;
  }
  *(float4*)(a.rows + size_t(blockIdx.x) * a.D + 4 * quad) = {v[0], v[1], v[2], v[3]};
}

extern "C" __global__ void __launch_bounds__(THREADS) compressor_prefill_f16(const CompressorPrefillArgs a) {
  compress<__half>(a);
}

extern "C" __global__ void __launch_bounds__(THREADS) compressor_prefill_f32(const CompressorPrefillArgs a) {
  compress<float>(a);
}
