// The plain formats (quant/plain.cuh) as tensor-core operands: F16 as it is, F32 as two f16 under a power of two for each
// 32 elements of a row. Widths need not be multiples of the chunk.
#pragma once
#include "many/tile.cuh"
#include "quant/plain.cuh"

template <>
struct Operand<F16> {
  static constexpr int kParts = 1;
  static constexpr int kMinGroup = 0;
  static constexpr bool kScaled = false;
  static constexpr bool kUnitScale = false;
  static constexpr int kSpan = 1;
  using Table = NoTable;

  struct Raw {
    u32 q[4];
  };

  __device__ static void fill(Table&) {}
  __device__ static int chunk(int c, int t) { return 4 * c + t; }

  __device__ static Raw load(const u8* row, int e, int c, int t, int k) {
    e += 32 * c + 8 * t;
    const u8* p = row + 2ll * e;
    Raw raw;
    if (e + 8 <= k && aligned16(p)) {
      const uint4 v = *reinterpret_cast<const uint4*>(p);
      raw.q[0] = v.x, raw.q[1] = v.y, raw.q[2] = v.z, raw.q[3] = v.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 low = e + 2 * i < k ? load_u16(p + 4 * i) : 0;
        const u32 high = e + 2 * i + 1 < k ? load_u16(p + 4 * i + 2) : 0;
        raw.q[i] = low | high << 16;
      }
    }
    return raw;
  }

  __device__ static float block_scale(const Raw&) { return 1.0f; }

  __device__ static void halves(const Raw& raw, const Table&, int, int, u32 (&q)[1][4], float& scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) q[0][i] = raw.q[i];
    scale = 1.0f;
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

template <>
struct Operand<F32> {
  static constexpr int kParts = 2;
  static constexpr int kMinGroup = 0;
  static constexpr bool kScaled = true;
  static constexpr bool kUnitScale = true;
  static constexpr int kSpan = 1;
  using Table = NoTable;

  struct Raw {
    float4 v[2];
  };

  __device__ static void fill(Table&) {}
  __device__ static int chunk(int c, int t) { return 4 * c + t; }

  __device__ static Raw load(const u8* row, int e, int c, int t, int k) {
    const float* w = reinterpret_cast<const float*>(row);
    e += 32 * c + 8 * t;
    return {{load4(w, e, k), load4(w, e + 4, k)}};
  }

  __device__ static float block_scale(const Raw&) { return 1.0f; }

  __device__ static void halves(const Raw& raw, const Table&, int, int, u32 (&q)[2][4], float& scale) {
    const float v[8] = {raw.v[0].x, raw.v[0].y, raw.v[0].z, raw.v[0].w, raw.v[1].x, raw.v[1].y, raw.v[1].z, raw.v[1].w};
    float amax = 0.0f, inverse;
#pragma unroll
    for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
    // The four threads of a row are neighbours in a warp.
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 2));
    split_scale(amax, scale, inverse);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 high[2], low[2];
      split_half(v[2 * i] * inverse, high[0], low[0]);
      split_half(v[2 * i + 1] * inverse, high[1], low[1]);
      q[0][i] = high[0] | high[1] << 16;
      q[1][i] = low[0] | low[1] << 16;
    }
  }
};
