// The plain formats, F16 and F32: an element is its own value. Widths need not be multiples of the chunk.
#pragma once
#include "quant/format.cuh"

struct F16 {
  static constexpr int kElems = 1;
  static constexpr int kBytes = 2;
  static constexpr int kGroup = 32;
  static constexpr bool kMin = false;
  static constexpr int kParts = 1;

  struct Chunk {
    u32 q[8];  // pairs of f16
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c;
    const u8* p = row + 2ll * e;
    if (e + 16 <= k && aligned16(p)) {
      const uint4 a = reinterpret_cast<const uint4*>(p)[0], b = reinterpret_cast<const uint4*>(p)[1];
      c.q[0] = a.x, c.q[1] = a.y, c.q[2] = a.z, c.q[3] = a.w;
      c.q[4] = b.x, c.q[5] = b.y, c.q[6] = b.z, c.q[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const u32 low = e + 2 * i < k ? load_u16(p + 4 * i) : 0;
        const u32 high = e + 2 * i + 1 < k ? load_u16(p + 4 * i + 2) : 0;
        c.q[i] = low | high << 16;
      }
    }
    return c;
  }

  __device__ static void floats(const Chunk& c, float (&q)[16], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 16; ++i) q[i] = half_bits_to_float(c.q[i / 2] >> (16 * (i % 2)) & 0xffff);
    scale = 1.0f;
    min = 0.0f;
  }

  __device__ static void halves(const Chunk& c, u32 (&q)[kParts][8], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 8; ++i) q[0][i] = c.q[i];
    scale = 1.0f;
    min = 0.0f;
  }
};

// 2^(e − 12) and its inverse for the largest magnitude 2^e ≤ amax < 2^(e+1): times the inverse, a group's values lie
// below 2^13, where f16 neither overflows nor, for all that counts beside the largest, becomes subnormal.
__device__ inline void split_scale(float amax, float& scale, float& inverse) {
  const u32 exponent = min(max(__float_as_uint(amax) >> 23 & 0xffu, 13u), 253u);
  scale = __uint_as_float((exponent - 12) << 23);
  inverse = __uint_as_float((266 - exponent) << 23);
}

// v = high + low to 22 bits, v scaled by split_scale.
__device__ inline void split_half(float v, u32& high, u32& low) {
  high = float_to_half_bits(v);
  low = float_to_half_bits(v - half_bits_to_float(high));
}

struct F32 {
  static constexpr int kElems = 1;
  static constexpr int kBytes = 4;
  static constexpr int kGroup = 16;  // one for each split_scale
  static constexpr bool kMin = false;
  static constexpr int kParts = 2;

  struct Chunk {
    float q[16];
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 v = load4(reinterpret_cast<const float*>(row), e + 4 * i, k);
      c.q[4 * i] = v.x, c.q[4 * i + 1] = v.y, c.q[4 * i + 2] = v.z, c.q[4 * i + 3] = v.w;
    }
    return c;
  }

  __device__ static void floats(const Chunk& c, float (&q)[16], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 16; ++i) q[i] = c.q[i];
    scale = 1.0f;
    min = 0.0f;
  }

  __device__ static void halves(const Chunk& c, u32 (&q)[kParts][8], float& scale, float& min) {
    float amax = 0.0f, inverse;
#pragma unroll
    for (int i = 0; i < 16; ++i) amax = fmaxf(amax, fabsf(c.q[i]));
    split_scale(amax, scale, inverse);
    min = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      u32 high[2], low[2];
      split_half(c.q[2 * i] * inverse, high[0], low[0]);
      split_half(c.q[2 * i + 1] * inverse, high[1], low[1]);
      q[0][i] = high[0] | high[1] << 16;
      q[1][i] = low[0] | low[1] << 16;
    }
  }
};
