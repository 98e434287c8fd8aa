// Q2_K (quant/q2_k.cuh) as tensor-core operand: sc·q, at most 45, of a block with scale d; sixteen minima a block with
// scale dmin. Thread t has bytes 8t .. 8t + 8 of the 32 that hold a step's elements, two bits of each byte for a chunk.
#pragma once
#include "many/tile.cuh"
#include "quant/q2_k.cuh"

template <>
struct Operand<Q2_K> {
  static constexpr int kParts = 1;
  static constexpr int kMinGroup = 16;
  static constexpr bool kScaled = true;
  static constexpr bool kUnitScale = false;
  static constexpr int kSpan = 4;
  using Table = NoTable;

  struct Raw {
    u32 q[2];
    u32 sc;  // of the four chunks
    u32 d;   // f16 bits
  };

  __device__ static void fill(Table&) {}
  __device__ static int chunk(int c, int t) { return 4 * c + t; }

  __device__ static Raw load(const u8* row, int e, int, int t, int) {
    const u8* block = row + e / 256 * static_cast<long long>(Q2_K::kBytes);
    const int n = e % 256 / 128;
    Raw raw;
    raw.q[0] = load_u32(block + 16 + 32 * n + 8 * t);
    raw.q[1] = load_u32(block + 20 + 32 * n + 8 * t);
    // One for 16 elements: of each chunk's two the first is for threads 0 and 1.
    raw.sc = __byte_perm(load_u32(block + 8 * n), load_u32(block + 8 * n + 4), t < 2 ? 0x6420 : 0x7531);
    raw.d = load_u16(block + 80);
    return raw;
  }

  __device__ static float block_scale(const Raw& raw) { return half_bits_to_float(raw.d); }

  __device__ static void halves(const Raw& raw, const Table&, int c, int, u32 (&q)[1][4], float& scale) {
    scale = block_scale(raw);
    const u32 zero = (raw.d & 0x7fffu) == 0 ? 0u : 15u;
    scaled_bytes(raw.q[0] >> (2 * c) & 0x03030303u, raw.sc >> (8 * c) & zero, q[0][0], q[0][1]);
    scaled_bytes(raw.q[1] >> (2 * c) & 0x03030303u, raw.sc >> (8 * c) & zero, q[0][2], q[0][3]);
  }

  __device__ static void minima(const u8* row, int e, int t, u32 (&a)[2], float& min) {
    const u8* block = row + e / 256 * static_cast<long long>(Q2_K::kBytes);
    min = half_bits_to_float(load_u16(block + 82));
    const u32 m = load_u16(block + 2 * t) | load_u16(block + 2 * t + 8) << 16;
    byte_halves(m >> 4 & 0x0f0f0f0fu, kUnsignedBias, a[0], a[1]);
  }
};
