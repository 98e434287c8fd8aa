// rms_norm: y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w (docs/model.md §6).
//
// One block per row. Rows of up to 16,384 elements, the widest of a model, are read once and kept in registers; of a
// wider one the rest is read again, from L1 or L2. With few rows nothing hides a block's latency, so it has as many
// threads as there can be, and row and gain are under way together.
#include "common/cuda.cuh"

#include "args/rms_norm.h"
#include "common/reduce.cuh"
#include "common/vec.cuh"

// Four elements from i, zeros from `end` on. EVEN: all or none of them are there, on 16 bytes.
template <bool EVEN>
__device__ inline float4 four(const float* x, int i, int end) {
  if (!EVEN) return load4(x, i, end);
  return i < end ? *reinterpret_cast<const float4*>(x + i) : make_float4(0, 0, 0, 0);
}

__device__ inline float squares(float4 v) { return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w); }

__device__ inline float4 ones() { return make_float4(1, 1, 1, 1); }

// By THREADS threads, each of which keeps 4·KEPT elements. EARLY: gains are read ahead of the sum, into as many
// registers.
template <int THREADS, int KEPT, bool EVEN, bool EARLY>
__device__ inline void norm(const float* x, float* y, const float* w, int dim, float eps, const int* rows) {
  const int first = threadIdx.x * 4, step = THREADS * 4;
  const auto gain = [&](int i) { return w == nullptr ? ones() : four<EVEN>(w, i, dim); };
  float4 v[KEPT], g[EARLY ? KEPT : 1];
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < KEPT; ++n) {
    if (n * step >= dim) break;
    v[n] = four<EVEN>(x, first + n * step, dim);
    if (EARLY) g[EARLY ? n : 0] = gain(first + n * step);
  }
  if (*rows == 0) return;
#pragma unroll
  for (int n = 0; n < KEPT; ++n) {
    if (n * step >= dim) break;
    sum += squares(v[n]);
  }
  for (int i = first + KEPT * step; i < dim; i += step) sum += squares(four<EVEN>(x, i, dim));
  // sqrtf and the divisions are correctly rounded; rsqrtf is not.
  const float scale = 1.0f / sqrtf(block_sum<THREADS>(sum) / static_cast<float>(dim) + eps);
  const auto put = [&](int i, float4 v, float4 g) {
    v = make_float4(v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w);
    if (!EVEN) {
      store4(y, i, dim, v);
    } else if (i < dim) {
      *reinterpret_cast<float4*>(y + i) = v;
    }
  };
#pragma unroll
  for (int n = 0; n < KEPT; ++n) {
    if (n * step >= dim) break;
    put(first + n * step, v[n], EARLY ? g[EARLY ? n : 0] : gain(first + n * step));
  }
  for (int i = first + KEPT * step; i < dim; i += step) put(i, four<EVEN>(x, i, dim), gain(i));
}

template <int THREADS>
__device__ inline void norm_row(const RmsNormArgs& a) {
  // The first row, mostly the only one, always has a place: it is read before the answer whether it is there has come.
  const int row = blockIdx.x;
  if (row > 0 && row >= *a.R) return;
  const float* x = a.x + static_cast<long long>(row) * a.D;
  float* y = a.y + static_cast<long long>(row) * a.D;
  const float* w = static_cast<const float*>(a.w);
  if (a.D % 4 == 0 && aligned16(x) && aligned16(y) && aligned16(w)) {
    norm<THREADS, 16384 / (4 * THREADS), true, THREADS == 1024>(x, y, w, a.D, a.eps, a.R);
  } else {
    norm<THREADS, 1, false, false>(x, y, w, a.D, a.eps, a.R);
  }
}

extern "C" __global__ void __launch_bounds__(1024) rms_norm_few(const RmsNormArgs a) { norm_row<1024>(a); }

extern "C" __global__ void __launch_bounds__(512) rms_norm(const RmsNormArgs a) { norm_row<512>(a); }
