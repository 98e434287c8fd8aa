// IQ2_XXS (quant/iq2_xxs.cuh) as tensor-core operand. Thread t has the t-th 32 elements of a step, eight bytes, and gives
// (2s + 1)·grid·sign, a whole number below 2^11; a block's scale is d/8.
#pragma once
#include "many/tile.cuh"
#include "quant/iq2_xxs.cuh"

template <>
struct Operand<IQ2_XXS> {
  static constexpr int kParts = 1;
  static constexpr int kMinGroup = 0;
  static constexpr bool kScaled = true;
  static constexpr bool kUnitScale = false;
  static constexpr int kSpan = 4;

  // The codebook as byte permutations: 16 bits for two elements, each 0, 1 or 2 for 8, 25 or 43, and 4 more for the
  // upper byte of the same f16.
  struct Table {
    uint2 grid[256];
  };

  struct Raw {
    u32 entries;  // four grid indices
    u32 word;     // 4 × 7 bits of signs, s
    u32 d;        // f16 bits
  };

  __device__ static void fill(Table& table) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
      const u64 entry = kIq2xxsGrid[i];
      table.grid[i] = make_uint2(selectors(static_cast<u32>(entry)), selectors(static_cast<u32>(entry >> 32)));
    }
  }

  __device__ static int chunk(int c, int t) { return 4 * t + c; }

  __device__ static Raw load(const u8* row, int e, int, int t, int) {
    const u8* block = row + e / 256 * static_cast<long long>(IQ2_XXS::kBytes);
    const u8* group = block + 2 + e % 256 / 4 + 8 * t;
    // Words as they lie, and the 16 bits that are too many in front are shifted out: they are still the block's.
    const u32 odd = static_cast<u32>(reinterpret_cast<u64>(group)) & 2;
    const u32 a = load_u32(group - odd), b = load_u32(group - odd + 4), c = load_u16(group + 6);
    Raw raw;
    raw.entries = __funnelshift_r(a, b, 8 * odd);
    raw.word = __funnelshift_r(b, c, 8 * odd);
    raw.d = load_u16(block);
    return raw;
  }

  __device__ static float block_scale(const Raw& raw) { return half_bits_to_float(raw.d) * 0.125f; }

  __device__ static void halves(const Raw& raw, const Table& table, int c, int, u32 (&q)[1][4], float& scale) {
    scale = block_scale(raw);
    // 8, 25 and 43 are 0x4800, 0x4e40 and 0x5160.
    constexpr u32 kLow = 0x00604000u, kHigh = 0x00514e48u;
    const uint2 entry = table.grid[raw.entries >> (8 * c) & 0xffu];
    const u32 magnitude[4] = {__byte_perm(kLow, kHigh, entry.x), __byte_perm(kLow, kHigh, entry.x >> 16),
                              __byte_perm(kLow, kHigh, entry.y), __byte_perm(kLow, kHigh, entry.y >> 16)};
    const u32 signs = sign_bytes(raw.word);
    // Byte c of `signs` on top, and seven bits of it, shifted by one, on top of the lower half: signs 6 and 7 stand in
    // the two sign bits, and the others get there by shifts.
    const u32 both = __byte_perm(signs, signs << 1, c << 12 | c << 8 | (4 + c) << 4 | c);
    // A block of zeros has no unit (ManyTile::change_units).
    const __half2 times = whole_halves((raw.d & 0x7fffu) == 0 ? 0u : (raw.word >> 27 & 30u) | 1u);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      HalfPair value;
      value.bits = magnitude[i] ^ (both << (6 - 2 * i) & 0x80008000u);
      value.h = __hmul2(value.h, times);
      q[0][i] = value.bits;
    }
  }

 private:
  __device__ static u32 selectors(u32 magnitudes) {
    u32 out = 0;
    for (int i = 0; i < 4; ++i) out |= (magnitudes >> (8 * i + 4) & 3u) * 0x11u << 8 * i;
    return out + 0x40404040u;
  }

  // Seven bits of each sign index in a byte; the eighth makes the number of negatives even.
  __device__ static u32 sign_bytes(u32 word) {
    const u32 bits = (word & 0x7fu) | (word << 1 & 0x7f00u) | (word << 2 & 0x7f0000u) | (word << 3 & 0x7f000000u);
    u32 odd = bits ^ bits >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return bits | (odd & 0x01010101u) << 7;
  }
};
