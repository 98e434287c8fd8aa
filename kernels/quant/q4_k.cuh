// Q4_K (docs/model.md §2.4): 256 elements in 144 bytes. f16 d, f16 dmin, u8 scales[12], u8 qs[128];
// value d·sc·q − dmin·m, one 6-bit sc and m for 32 elements.
#pragma once
#include "quant/format.cuh"
#include "quant/limbs.cuh"

struct Q4_K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 144;
  static constexpr bool kMin = true;

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

  __device__ static void scales(const Chunk& c, float& scale, float& min) {
    scale = half_bits_to_float(c.d & 0xffff) * static_cast<float>(c.sc);
    min = half_bits_to_float(c.d >> 16) * static_cast<float>(c.m);
  }
};

// For quant/stream.cuh: a lane has the 32 bytes of two sub-blocks.
struct Q4_KLane {
  static constexpr int kSliceBytes = kSlice / 256 * 144;
  static constexpr int kRows = 2;
  static constexpr int kStages = 3;
  static constexpr int kStride = 16;
  struct Tables {};
  using X = SummedLimbs;

  __device__ static void fill(Tables&) {}
  __device__ static int first(int lane) { return 64 * lane; }

  __device__ static float dot(const Tables&, const u8* row, int lane, int count, const X& x) {
    if (64 * lane >= count) return 0.0f;
    const u8* block = row + lane / 4 * 144;
    const int pair = lane % 4, shift = 16 * (pair % 2);
    const u32 d = load_u32(block);
    // Both sub-blocks' scales and minima, a byte each; see Q4_K::load.
    const u32 a = load_u32(block + 4) >> shift, b = load_u32(block + 8) >> shift, c = load_u32(block + 12) >> shift;
    const u32 sc = pair < 2 ? a & 0x3f3fu : (c & 0x0f0fu) | (a >> 2 & 0x3030u);
    const u32 m = pair < 2 ? b & 0x3f3fu : (c >> 4 & 0x0f0fu) | (b >> 2 & 0x3030u);
    u32 w[8], q[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = load_u32(block + 16 + 32 * pair + 4 * i);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = w[i] & 0x0f0f0f0fu;
    float sum = byte_to_float(sc, 0) * x.scale[0] * x.dot<0>(q);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = w[i] >> 4 & 0x0f0f0f0fu;
    sum = fmaf(byte_to_float(sc, 1) * x.scale[2], x.dot<8>(q), sum);
    const float minima = byte_to_float(m, 0) * (x.sum[0] + x.sum[1]) + byte_to_float(m, 1) * (x.sum[2] + x.sum[3]);
    return half_bits_to_float(d & 0xffff) * sum - half_bits_to_float(d >> 16) * minima;
  }
};
