// Rows of F16 and F32 times one vector. They start on 16 bytes and need no decoding, so a block's threads spread over
// the elements of up to four rows at once and have everything that they will read under way before they use any of it:
// most of these matrices are small, and what they cost is one trip to memory.
#pragma once
#include "common/reduce.cuh"
#include "quant/plain.cuh"

constexpr int kPlainThreads = 512;

// Eight consecutive elements as stored, zeros from `end` on. EVEN: all eight or none are there, on 16 bytes.
template <class W, bool EVEN>
struct Eight;

template <bool EVEN>
struct Eight<F16, EVEN> {
  u32 q[4];

  __device__ void load(const u8* row, int e, int end) {
    const u8* p = row + 2ll * e;
    if (EVEN) {
      const uint4 v = e < end ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
      q[0] = v.x, q[1] = v.y, q[2] = v.z, q[3] = v.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 low = e + 2 * i < end ? load_u16(p + 4 * i) : 0;
        const u32 high = e + 2 * i + 1 < end ? load_u16(p + 4 * i + 2) : 0;
        q[i] = low | high << 16;
      }
    }
  }
  __device__ float at(int i) const { return half_bits_to_float(q[i / 2] >> (16 * (i % 2)) & 0xffff); }
};

template <bool EVEN>
struct Eight<F32, EVEN> {
  float q[8];

  __device__ void load(const u8* row, int e, int end) {
    const float* p = reinterpret_cast<const float*>(row) + e;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      if (EVEN) {
        const float4 v = e < end ? *reinterpret_cast<const float4*>(p + i) : make_float4(0, 0, 0, 0);
        q[i] = v.x, q[i + 1] = v.y, q[i + 2] = v.z, q[i + 3] = v.w;
      } else {
#pragma unroll
        for (int n = i; n < i + 4; ++n) q[n] = e + n < end ? p[n] : 0.0f;
      }
    }
  }
  __device__ float at(int i) const { return q[i]; }
};

// y[n] = Σ_k w[n][k] · x[k] for ROWS rows at a time of the block's, every gridDim.x-th group of them. Nothing is written
// unless `live`, which is not waited for before the end.
template <class W, int ROWS, bool EVEN>
__device__ inline void plain_rows(float* y, const u8* w, const float* x, int k, int n, bool live) {
  // As much as 64 registers hold, which is what two blocks of an SM leave each thread.
  constexpr int kLoads = W::kBytes == 2 ? 4 : 2, kSteps = EVEN && kLoads > ROWS ? kLoads / ROWS : 1;
  constexpr int kStride = kPlainThreads * 8;
  const long long row_bytes = static_cast<long long>(k) * W::kBytes;
  for (int row0 = blockIdx.x * ROWS; row0 < n; row0 += gridDim.x * ROWS) {
    float acc[ROWS] = {};
    for (int first = threadIdx.x * 8; first < k; first += kSteps * kStride) {
      Eight<W, EVEN> q[kSteps][ROWS];
      Eight<F32, EVEN> v[kSteps];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int e = first + s * kStride;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          // Past the last row the last one is read again, and not written.
          q[s][r].load(w + min(row0 + r, n - 1) * row_bytes, e, k);
        }
        v[s].load(reinterpret_cast<const u8*>(x), e, k);
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          // Two chains: the order is fixed, and neither waits for the other.
          float even = 0.0f, odd = 0.0f;
#pragma unroll
          for (int i = 0; i < 8; i += 2) {
            even = fmaf(q[s][r].at(i), v[s].at(i), even);
            odd = fmaf(q[s][r].at(i + 1), v[s].at(i + 1), odd);
          }
          acc[r] += even + odd;
        }
      }
    }
    const float total = block_sums<kPlainThreads>(acc);
    if (live && threadIdx.x < ROWS && row0 + threadIdx.x < n) y[row0 + threadIdx.x] = total;
  }
}

// As many rows at a time as leave no block of the grid without work.
template <class W>
__device__ inline void plain_rows(float* y, const u8* w, const float* x, int k, int n, bool live) {
  if (k % 8 != 0 || !aligned16(w) || !aligned16(x)) {
    plain_rows<W, 1, false>(y, w, x, k, n, live);
  } else if (n <= gridDim.x) {
    plain_rows<W, 1, true>(y, w, x, k, n, live);
  } else if (n <= 2 * gridDim.x) {
    plain_rows<W, 2, true>(y, w, x, k, n, live);
  } else {
    plain_rows<W, 4, true>(y, w, x, k, n, live);
  }
}
