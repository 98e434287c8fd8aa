// Q8_0 (quant/q8_0.cuh) as tensor-core operand: q, with a scale for each 32 elements, of which thread t has the t-th 8.
#pragma once
#include "many/tile.cuh"
#include "quant/q8_0.cuh"

template <>
struct Operand<Q8_0> {
  static constexpr int kParts = 1;
  static constexpr int kMinGroup = 0;
  static constexpr bool kScaled = true;
  static constexpr bool kUnitScale = true;
  static constexpr int kSpan = 2;
  using Table = NoTable;

  struct Raw {
    u32 q[2][2];
    u32 d;  // f16 bits of both blocks
  };

  __device__ static void fill(Table&) {}
  __device__ static int chunk(int c, int t) { return 4 * c + t; }

  __device__ static Raw load(const u8* row, int e, int c, int t, int k) {
    e += 32 * c;
    const u8* block = row + e / 32 * static_cast<long long>(Q8_0::kBytes);
    // Two blocks are 17 words, whose first and ninth hold the scales beside bytes of others: the four threads of a row
    // take five words each and share the scales. Rows of 64n elements all start on a word if one does.
    u32 w[5] = {0, 0, 0, 0, 0};
    if (e + 32 < k && (reinterpret_cast<u64>(block) & 3) == 0) {
#pragma unroll
      for (int i = 0; i < 5; ++i) w[i] = load_u32(block + 8 * t + (i < 3 ? 4 * i : 4 * i + 24));
    } else if (e < k) {
      const bool both = e + 32 < k;
      w[0] = load_u32_even(block + 8 * t);
      w[1] = load_u32_even(block + 8 * t + 4);
      w[2] = load_u16(block + 8 * t + 8) | (t < 3 || both ? load_u16(block + 8 * t + 10) << 16 : 0);
      if (both) {
        w[3] = load_u32_even(block + 8 * t + 36);
        w[4] = load_u32_even(block + 8 * t + 40);
      }
    }
    const int first = threadIdx.x % 32 & ~3;
    const u32 a = __shfl_sync(0xffffffffu, w[0], first), b = __shfl_sync(0xffffffffu, w[2], first + 3);
    return {{{__funnelshift_r(w[0], w[1], 16), __funnelshift_r(w[1], w[2], 16)}, {w[3], w[4]}}, __byte_perm(a, b, 0x7610)};
  }

  __device__ static float block_scale(const Raw&) { return 1.0f; }

  __device__ static void halves(const Raw& raw, const Table&, int c, int, u32 (&q)[1][4], float& scale) {
    scale = half_bits_to_float(raw.d >> (16 * (c % 2)) & 0xffffu);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      byte_halves(raw.q[c % 2][i] ^ 0x80808080u, kSignedBias, q[0][2 * i], q[0][2 * i + 1]);
    }
  }
};
