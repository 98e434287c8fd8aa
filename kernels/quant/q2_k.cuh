// Q2_K (docs/model.md §2.4): 256 elements in 84 bytes. u8 scales[16], u8 qs[64], f16 d, f16 dmin;
// value d·(sc & 15)·q − dmin·(sc >> 4), one sc for 16 elements.
#pragma once
#include "quant/format.cuh"

struct Q2_K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 84;
  static constexpr int kGroup = 16;
  static constexpr bool kMin = true;
  static constexpr int kParts = 1;

  struct Chunk {
    u32 q[4];  // four bytes each, 0 to 3
    u32 d;     // f16 bits of d, then of dmin
    u32 sc;
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c = {{0, 0, 0, 0}, 0, 0};
    if (e >= k) return c;
    const u8* block = row + e / kElems * static_cast<long long>(kBytes);
    // A byte holds elements 32 apart: half n, then byte l, then two bits j.
    const int n = e % 256 / 128, j = e % 128 / 32, l = e % 32;
    c.sc = block[8 * n + 2 * j + l / 16];
    c.d = load_u32(block + 80);
#pragma unroll
    for (int i = 0; i < 4; ++i) c.q[i] = load_u32(block + 16 + 32 * n + l + 4 * i) >> (2 * j) & 0x03030303u;
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
    scale = half_bits_to_float(c.d & 0xffff) * static_cast<float>(c.sc & 15);
    min = half_bits_to_float(c.d >> 16) * static_cast<float>(c.sc >> 4);
  }
};
