// Q4_K (docs/model.md §2.4): 256 elements in 144 bytes. f16 d, f16 dmin, u8 scales[12], u8 qs[128];
// value d·sc·q − dmin·m, one 6-bit sc and m for 32 elements.
#pragma once
#include "quant/format.cuh"

struct Q4_K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 144;
  static constexpr int kGroup = 32;
  static constexpr bool kMin = true;
  static constexpr int kParts = 1;

  struct Chunk {
    u32 q[4];  // four bytes each, 0 to 15
    u32 d;     // f16 bits of d, then of dmin
    u32 sc, m;
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c = {{0, 0, 0, 0}, 0, 0, 0};
    if (e >= k) return c;
    const u8* block = row + e / kElems * static_cast<long long>(kBytes);
    const int j = e % 256 / 32;
    c.d = load_u32(block);
    // Sub-blocks 0 to 3 have their six bits in one byte; 4 to 7 have four there and two atop the bytes of 0 to 3.
    const u8* packed = block + 4;
    if (j < 4) {
      c.sc = packed[j] & 63;
      c.m = packed[j + 4] & 63;
    } else {
      c.sc = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
      c.m = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
    // Sub-blocks 2i and 2i + 1 are the low and the high nibbles of the same 32 bytes.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      c.q[i] = load_u32(block + 16 + 32 * (j / 2) + e % 32 + 4 * i) >> (4 * (j % 2)) & 0x0f0f0f0fu;
    }
    return c;
  }

  __device__ static void floats(const Chunk& c, float (&q)[16], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 16; ++i) q[i] = byte_to_float(c.q[i / 4], i % 4);
    scales(c, scale, min);
  }

  __device__ static void halves(const Chunk& c, u32 (&q)[kParts][8], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 4; ++i) bytes_to_halves(c.q[i], kUnsignedBias, q[0][2 * i], q[0][2 * i + 1]);
    scales(c, scale, min);
  }

  __device__ static void scales(const Chunk& c, float& scale, float& min) {
    scale = half_bits_to_float(c.d & 0xffff) * static_cast<float>(c.sc);
    min = half_bits_to_float(c.d >> 16) * static_cast<float>(c.m);
  }
};
