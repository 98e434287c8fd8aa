// Q4_K (quant/q4_k.cuh) as tensor-core operand: sc·q, at most 945, of a block with scale d; eight minima a block with
// scale dmin. Thread t has bytes 8t .. 8t + 8 of the 32 that hold two chunks, in their low and their high nibbles.
#pragma once
#include "many/tile.cuh"
#include "quant/q4_k.cuh"

template <>
struct Operand<Q4_K> {
  static constexpr int kParts = 1;
  static constexpr int kMinGroup = 32;
  static constexpr bool kScaled = true;
  static constexpr bool kUnitScale = false;
  static constexpr int kSpan = 4;
  using Table = NoTable;

  struct Raw {
    u32 q[4];
    u32 sc;  // of the four chunks
    u32 d;   // f16 bits
  };

  __device__ static void fill(Table&) {}
  __device__ static int chunk(int c, int t) { return 4 * c + t; }

  __device__ static Raw load(const u8* row, int e, int, int t, int) {
    const u8* block = row + e / 256 * static_cast<long long>(Q4_K::kBytes);
    const int n = e % 256 / 128;
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; ++i) raw.q[i] = load_u32(block + 16 + 64 * n + i / 2 * 32 + 8 * t + i % 2 * 4);
    // Sub-blocks 0 to 3 have their six bits in one byte; 4 to 7 have four there and two atop the bytes of 0 to 3.
    const u32 first = load_u32(block + 4);
    raw.sc = n == 0 ? first & 0x3f3f3f3fu : (load_u32(block + 12) & 0x0f0f0f0fu) | (first >> 2 & 0x30303030u);
    raw.d = load_u16(block);
    return raw;
  }

  __device__ static float block_scale(const Raw& raw) { return half_bits_to_float(raw.d); }

  __device__ static void halves(const Raw& raw, const Table&, int c, int, u32 (&q)[1][4], float& scale) {
    scale = block_scale(raw);
    const u32 zero = (raw.d & 0x7fffu) == 0 ? 0u : 63u;
    const u32 first = c < 2 ? raw.q[0] : raw.q[2], second = c < 2 ? raw.q[1] : raw.q[3];
    scaled_bytes(first >> (c % 2 * 4) & 0x0f0f0f0fu, raw.sc >> (8 * c) & zero, q[0][0], q[0][1]);
    scaled_bytes(second >> (c % 2 * 4) & 0x0f0f0f0fu, raw.sc >> (8 * c) & zero, q[0][2], q[0][3]);
  }

  __device__ static void minima(const u8* row, int e, int t, u32 (&a)[2], float& min) {
    const u8* block = row + e / 256 * static_cast<long long>(Q4_K::kBytes);
    min = half_bits_to_float(load_u16(block + 2));
    u32 m[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * t + i;
      m[i] = j < 4 ? block[8 + j] & 63u : block[8 + j] >> 4 | block[4 + j] >> 6 << 4;
    }
    u32 unused;
    byte_halves(m[0] | m[1] << 8, kUnsignedBias, a[0], unused);
    a[1] = a[0];
  }
};
