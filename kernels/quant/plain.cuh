// The plain formats, F16 and F32: an element is its own value. Widths need not be multiples of the chunk.
#pragma once
#include "quant/format.cuh"

struct F16 {
  static constexpr int kElems = 1;
  static constexpr int kBytes = 2;
  static constexpr bool kMin = false;

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
};

struct F32 {
  static constexpr int kElems = 1;
  static constexpr int kBytes = 4;
  static constexpr bool kMin = false;

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
};
