// Q8_0 (docs/model.md §2.4): 32 elements in 34 bytes. f16 d, i8 q[32]; value d·q.
#pragma once
#include "quant/format.cuh"

struct Q8_0 {
  static constexpr int kElems = 32;
  static constexpr int kBytes = 34;
  static constexpr int kGroup = 32;
  static constexpr bool kMin = false;
  static constexpr int kParts = 1;

  struct Chunk {
    u32 q[4];  // four signed bytes each
    u32 d;     // f16 bits
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c = {{0, 0, 0, 0}, 0};
    if (e >= k) return c;
    const u8* block = row + e / kElems * static_cast<long long>(kBytes);
    const u8* q = block + 2 + e % kElems;
    c.d = load_u16(block);
    // Every other block starts off a word. Then whole words are read from two bytes before (still in the block: d or
    // earlier elements) and shifted: five loads instead of eight halfwords.
    if ((reinterpret_cast<u64>(q) & 2) == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c.q[i] = load_u32(q + 4 * i);
    } else {
      u32 w[5];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = load_u32(q - 2 + 4 * i);
      w[4] = load_u16(q + 14);
#pragma unroll
      for (int i = 0; i < 4; ++i) c.q[i] = w[i] >> 16 | w[i + 1] << 16;
    }
    return c;
  }

  __device__ static void floats(const Chunk& c, float (&q)[16], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 16; ++i) q[i] = signed_byte_to_float(c.q[i / 4], i % 4);
    scale = half_bits_to_float(c.d);
    min = 0.0f;
  }

  __device__ static void halves(const Chunk& c, u32 (&q)[kParts][8], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 4; ++i) bytes_to_halves(c.q[i] ^ 0x80808080u, kSignedBias, q[0][2 * i], q[0][2 * i + 1]);
    scale = half_bits_to_float(c.d);
    min = 0.0f;
  }
};
