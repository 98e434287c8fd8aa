// Q8_0 (docs/model.md §2.4): 32 elements in 34 bytes. f16 d, i8 q[32]; value d·q.
#pragma once
#include "quant/format.cuh"
#include "quant/limbs.cuh"

struct Q8_0 {
  static constexpr int kElems = 32;
  static constexpr int kBytes = 34;
  static constexpr bool kMin = false;

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
};

// For quant/stream.cuh: a lane has two blocks, 68 bytes, which is an odd number of words: lanes read from different banks.
struct Q8_0Lane {
  static constexpr int kSliceBytes = kSlice / 32 * 34;
  static constexpr int kRows = 1;
  static constexpr int kStages = 3;
  static constexpr int kStride = 16;
  struct Tables {};
  using X = LaneLimbs;

  __device__ static void fill(Tables&) {}
  __device__ static int first(int lane) { return 64 * lane; }

  __device__ static float dot(const Tables&, const u8* row, int lane, int count, const X& x) {
    if (64 * lane >= count) return 0.0f;
    const bool both = 64 * lane + 32 < count;
    const u8* p = row + 68 * lane;
    // In a row that starts on a word the first block's bytes straddle words, in others the second's.
    return (reinterpret_cast<u64>(row) & 2) == 0 ? blocks<0>(p, both, x) : blocks<2>(p - 2, both, x);
  }

 private:
  // The blocks start OFF bytes after `p`, which is on a word.
  template <int OFF>
  __device__ static float blocks(const u8* p, bool both, const X& x) {
    u32 w[17 + OFF / 2], q[8];
#pragma unroll
    for (int i = 0; i < 17 + OFF / 2; ++i) w[i] = load_u32(p + 4 * i);
    const float d0 = half_bits_to_float(OFF == 0 ? w[0] & 0xffff : w[0] >> 16);
    const float d1 = half_bits_to_float(OFF == 0 ? w[8] >> 16 : w[9] & 0xffff);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = OFF == 0 ? w[i] >> 16 | w[i + 1] << 16 : w[i + 1];
    float sum = d0 * x.scale[0] * x.dot<0>(q);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = OFF == 0 ? w[i + 9] : w[i + 9] >> 16 | w[i + 9 + OFF / 2] << 16;
    return both ? fmaf(d1 * x.scale[2], x.dot<8>(q), sum) : sum;
  }
};
