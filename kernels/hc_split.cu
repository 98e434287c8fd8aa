// Hyper-connection weights of a sublayer: pre, post and the Sinkhorn-normalised combine matrix (docs/model.md §5).
//
// With one token this is a chain of forty dependent normalisations and nothing else, so what counts is the length of a
// link. Normalising rows and columns in turns multiplies row i by u[i] and column j by v[j] and leaves the matrix as it
// was: a step is one product with a vector of four and one division. Four lanes a token; lane i has row i and column i,
// makes u[i] and v[i], and sees the others by three shuffles that do not wait for each other.
#include "common/cuda.cuh"
#include "args/hc_split.h"

constexpr int THREADS = 128;
constexpr int STREAMS = 4;
constexpr int WIDTH = 2 * STREAMS + STREAMS * STREAMS;

// Σ over the four lanes; m[n] belongs to lane i ^ n.
__device__ inline float product(const float (&m)[STREAMS], float v) {
  const float v1 = __shfl_xor_sync(0xffffffffu, v, 1), v2 = __shfl_xor_sync(0xffffffffu, v, 2),
              v3 = __shfl_xor_sync(0xffffffffu, v, 3);
  return fmaf(m[0], v, m[1] * v1) + fmaf(m[2], v2, m[3] * v3);
}

extern "C" __global__ void __launch_bounds__(THREADS) hc_split(const HcSplitArgs a) {
  const int token = blockIdx.x * (THREADS / STREAMS) + threadIdx.x / STREAMS, i = threadIdx.x % STREAMS;
  const bool live = token < *a.T;  // lanes past the end still shuffle
  if (a.S != STREAMS) return;
  const float* mix = a.mix + size_t(live ? token : 0) * WIDTH;
  float* out = a.split + size_t(token) * WIDTH;
  const float* scale = (const float*)a.scale;
  const float* base = (const float*)a.base;

  // row[n] is the entry in column i ^ n.
  float row[STREAMS], column[STREAMS], top = 0.0f, sum = 0.0f;
#pragma unroll
  for (int n = 0; n < STREAMS; ++n) {
    const int at = 2 * STREAMS + STREAMS * i + (i ^ n);
    row[n] = live ? mix[at] * scale[2] + base[at] : 0.0f;
    top = n == 0 ? row[n] : fmaxf(top, row[n]);
  }
  const float pre = live ? mix[i] * scale[0] + base[i] : 0.0f;
  const float post = live ? mix[STREAMS + i] * scale[1] + base[STREAMS + i] : 0.0f;
#pragma unroll
  for (int n = 0; n < STREAMS; ++n) sum += row[n] = expf(row[n] - top);
#pragma unroll
  for (int n = 0; n < STREAMS; ++n) row[n] = row[n] / sum + a.eps;
  // Entry (i ^ n, i): that lane's row[n].
#pragma unroll
  for (int n = 0; n < STREAMS; ++n) column[n] = __shfl_xor_sync(0xffffffffu, row[n], n);

  float u = 1.0f, v = 1.0f / (product(column, u) + a.eps);
  for (int n = 1; n < a.iterations; ++n) {
    u = __fdividef(u, fmaf(u, product(row, v), a.eps));
    v = __fdividef(v, fmaf(v, product(column, u), a.eps));
  }

  const float others[STREAMS] = {v, __shfl_xor_sync(0xffffffffu, v, 1), __shfl_xor_sync(0xffffffffu, v, 2),
                                 __shfl_xor_sync(0xffffffffu, v, 3)};
  if (!live) return;
  out[i] = 1.0f / (1.0f + expf(-pre)) + a.eps;
  out[STREAMS + i] = 2.0f / (1.0f + expf(-post));
#pragma unroll
  for (int n = 0; n < STREAMS; ++n) out[2 * STREAMS + STREAMS * i + (i ^ n)] = u * row[n] * others[n];
}
