// Activations as whole numbers, so that products with quantised weights are integer dot products of bytes.
//
// Weights of a block format are small integers times a scale. Turned into f32 they cost three instructions an element
// (permute, subtract, multiply-add); packed bytes cost a quarter of one for each byte of the other operand. So an
// activation becomes x = scale · (65536·a + 256·b + c) with bytes a, b, c from −128 to 127 and a power of two that 32
// neighbours share: 22 bits below the largest of the 32, whose error is that of f32 sums and not of a rounded operand.
// The integer sums are exact.
#pragma once
#include "quant/format.cuh"

constexpr int kLimbs = 3;
// Elements of a row that a warp takes at once, 64 a lane, and what one such slice of activations takes in shared memory:
// a plane of bytes for each limb, 16 elements to a run, a gap of one run after every four (lanes read runs that are four
// apart: without it they would all meet in the same banks), and a scale for every 32 elements.
constexpr int kSlice = 2048;
constexpr int kPlaneBytes = kSlice / 64 * 80;
constexpr int kSliceLimbs = kLimbs * kPlaneBytes + kSlice / 32 * 4;

// 16 bytes of a plane.
__device__ inline int run_at(int element) { return (element / 16 + element / 64) * 16; }

// Four neighbours, elements `at` .. at + 4 of a slice. All lanes of a warp must come, lane l with at = 128·i + 4·l.
__device__ inline void split_into_limbs(u8* slice, int at, float4 v) {
  // As bits, so that NaN is the largest of all and comes through.
  u32 top = max(max(__float_as_uint(v.x) & 0x7fffffffu, __float_as_uint(v.y) & 0x7fffffffu),
                max(__float_as_uint(v.z) & 0x7fffffffu, __float_as_uint(v.w) & 0x7fffffffu));
  for (int lanes = 4; lanes > 0; lanes >>= 1) top = max(top, __shfl_xor_sync(0xffffffffu, top, lanes));
  // 2^e ≤ top < 2^(e+1); times 2^(21−e) it stays below 2^22, where adding 1.5 · 2^23 rounds to an integer.
  const u32 exponent = min(max(top >> 23, 22u), 254u);
  const float inverse = __uint_as_float((275u - exponent) << 23);
  // The three digits with 128 added to each are the bytes of the integer with 0x808080 added.
  const u32 bias = 0x00808080u - 0x4b400000u;
  const u32 i0 = __float_as_uint(fmaf(v.x, inverse, 12582912.0f)) + bias;
  const u32 i1 = __float_as_uint(fmaf(v.y, inverse, 12582912.0f)) + bias;
  const u32 i2 = __float_as_uint(fmaf(v.z, inverse, 12582912.0f)) + bias;
  const u32 i3 = __float_as_uint(fmaf(v.w, inverse, 12582912.0f)) + bias;
#pragma unroll
  for (int limb = 0; limb < kLimbs; ++limb) {
    const u32 pick = 0x0040u + 0x11u * (2 - limb);
    const u32 digits = __byte_perm(__byte_perm(i0, i1, pick), __byte_perm(i2, i3, pick), 0x5410);
    *reinterpret_cast<u32*>(slice + limb * kPlaneBytes + run_at(at) + at % 16) = digits ^ 0x80808080u;
  }
  if (at % 32 == 0) {
    const float scale = __uint_as_float(top >= 0x7f800000u ? 0x7fc00000u : (exponent - 21u) << 23);
    *reinterpret_cast<float*>(slice + kLimbs * kPlaneBytes + at / 32 * 4) = scale;
  }
}

// What a lane keeps of a slice: four runs of 16 elements, most significant limb first.
struct LaneLimbs {
  u32 limb[kLimbs][16];
  float scale[4];  // of each run

  // `first`: the lane's first element; its runs are `stride` elements apart.
  __device__ void load(const u8* slice, int first, int stride) {
#pragma unroll
    for (int run = 0; run < 4; ++run) {
      const int element = first + run * stride;
#pragma unroll
      for (int i = 0; i < kLimbs; ++i) {
        const uint4 v = *reinterpret_cast<const uint4*>(slice + i * kPlaneBytes + run_at(element));
        limb[i][4 * run] = v.x, limb[i][4 * run + 1] = v.y, limb[i][4 * run + 2] = v.z, limb[i][4 * run + 3] = v.w;
      }
      scale[run] = *reinterpret_cast<const float*>(slice + kLimbs * kPlaneBytes + element / 32 * 4);
    }
  }

  // Σ q · x over WORDS words of four bytes from word FIRST, in units of their scale.
  template <int FIRST, int WORDS>
  __device__ float dot(const u32 (&q)[WORDS]) const {
    // Sums that start at the bits of 1.5 · 2^23 are floats as they stand: they stay below 2^22, no 32 products of bytes
    // come to more than 2^19.
    const int start = 0x4b400000;
    int sum[kLimbs] = {start, start, start};
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
#pragma unroll
      for (int i = 0; i < kLimbs; ++i) {
        sum[i] = __dp4a(static_cast<int>(q[w]), static_cast<int>(limb[i][FIRST + w]), sum[i]);
      }
    }
    const float a = __int_as_float(sum[0]) - 12582912.0f, b = __int_as_float(sum[1]) - 12582912.0f;
    return fmaf(65536.0f, a, fmaf(256.0f, b, __int_as_float(sum[2]) - 12582912.0f));
  }
};

// For formats with minima.
struct SummedLimbs : LaneLimbs {
  float sum[4];  // of each run's elements

  __device__ void load(const u8* slice, int first, int stride) {
    LaneLimbs::load(slice, first, stride);
    const u32 ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    sum[0] = scale[0] * dot<0>(ones);
    sum[1] = scale[1] * dot<4>(ones);
    sum[2] = scale[2] * dot<8>(ones);
    sum[3] = scale[3] * dot<12>(ones);
  }
};
