// matmul for many tokens and few weight rows, plain formats (Product: matmul.cuh): as few rows as the hyper-connections
// have are done when x has been read once, so nothing is brought into f16 beforehand, and eight warps share K.
#pragma once
#include "common/mma.cuh"
#include "many/plain.cuh"
#include "matmul.cuh"

constexpr int kNarrowRows = 32;
constexpr int kNarrowTokens = 16;

__device__ inline bool narrow(const Product& p) { return p.n <= kNarrowRows; }

// Block t: all rows for 16 tokens from 16t. Warp w takes every eighth 32 of K, from the w-th on.
template <class W, int XPARTS>
__device__ inline void matmul_narrow(const Product& p) {
  using Op = Operand<W>;
  static_assert(Op::kSpan == 1 && Op::kMinGroup == 0, "a plain format");
  constexpr int kTiles = kNarrowTokens / 8;
  __shared__ float sums[kManyWarps][kNarrowRows][kNarrowTokens + 1];
  const int token0 = blockIdx.x * kNarrowTokens, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (!narrow(p) || token0 >= p.tokens) return;
  const int g = lane / 4, t = lane % 4;
  const u8* w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = weight_row<W>(p.w, min(8 * i + g, p.n - 1), p.k);
  const float* x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) x[j] = p.x + static_cast<long long>(min(token0 + 8 * j + g, p.tokens - 1)) * p.k;
  float acc[2][kTiles][4] = {};
#pragma unroll 2
  for (int e = 32 * warp; e < p.k; e += 32 * kManyWarps) {
    u32 a[2][Op::kParts][2][4], b[kTiles][XPARTS][2][2];
    float scale[2][2], x_scale[kTiles];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 q[Op::kParts][4];
      const typename Op::Raw raw = Op::load(w[i], e, 0, t, p.k);
      Op::halves(raw, {}, 0, t, q, scale[i / 2][i % 2]);
#pragma unroll
      for (int m = 0; m < Op::kParts; ++m) {
        a[i / 2][m][0][i % 2] = q[m][0], a[i / 2][m][0][2 + i % 2] = q[m][1];
        a[i / 2][m][1][i % 2] = q[m][2], a[i / 2][m][1][2 + i % 2] = q[m][3];
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const float4 low = load4(x[j], e + 8 * t, p.k), high = load4(x[j], e + 8 * t + 4, p.k);
      const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      float amax = 0.0f, inverse;
#pragma unroll
      for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
      // The four threads of a token are neighbours in a warp.
      amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 1));
      amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 2));
      split_scale(amax, x_scale[j], inverse);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 part[2][2];
        split_half(v[2 * i] * inverse, part[0][0], part[1][0]);
        split_half(v[2 * i + 1] * inverse, part[0][1], part[1][1]);
#pragma unroll
        for (int n = 0; n < XPARTS; ++n) b[j][n][i / 2][i % 2] = part[n][0] | part[n][1] << 16;
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      // The scales of the tokens that this thread gets sums of.
      const float of[2] = {__shfl_sync(0xffffffffu, x_scale[j], 8 * t), __shfl_sync(0xffffffffu, x_scale[j], 8 * t + 4)};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int n = 0; n < XPARTS; ++n) {
#pragma unroll
            for (int m = 0; m < Op::kParts; ++m) {
              // The product of two low parts is below the last bit of f32.
              if (n + m < 2) mma_m16n8k16_f16(sum, a[i][m][h], b[j][n][h]);
            }
          }
        }
#pragma unroll
        for (int d = 0; d < 4; ++d) acc[i][j][d] = fmaf(scale[i][d / 2] * of[d % 2], sum[d], acc[i][j][d]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int d = 0; d < 4; ++d) sums[warp][16 * i + g + d / 2 * 8][8 * j + 2 * t + d % 2] = acc[i][j][d];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kNarrowRows * kNarrowTokens; i += kManyThreads) {
    const int row = i % kNarrowRows, token = i / kNarrowRows;
    if (row >= p.n || token0 + token >= p.tokens) continue;
    float total = 0.0f;
#pragma unroll
    for (int part = 0; part < kManyWarps; ++part) total += sums[part][row][token];
    p.y[static_cast<long long>(token0 + token) * p.n + row] = total;
  }
}
