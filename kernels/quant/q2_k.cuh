// Q2_K (docs/model.md §2.4): 256 elements in 84 bytes. u8 scales[16], u8 qs[64], f16 d, f16 dmin;
// value d·(sc & 15)·q − dmin·(sc >> 4), one sc for 16 elements.
#pragma once
#include "quant/format.cuh"
#include "quant/limbs.cuh"

struct Q2_K {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 84;
  static constexpr bool kMin = true;

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

  __device__ static void scales(const Chunk& c, float& scale, float& min) {
    scale = half_bits_to_float(c.d & 0xffff) * static_cast<float>(c.sc & 15);
    min = half_bits_to_float(c.d >> 16) * static_cast<float>(c.sc >> 4);
  }
};

// For quant/stream.cuh: a lane has 16 bytes of a block, and of each its four elements, which lie 32 apart.
struct Q2_KLane {
  static constexpr int kSliceBytes = kSlice / 256 * 84;
  static constexpr int kRows = 4;
  static constexpr int kStages = 3;
  static constexpr int kStride = 32;
  struct Tables {};
  using X = SummedLimbs;

  __device__ static void fill(Tables&) {}
  __device__ static int first(int lane) { return lane / 4 * 256 + lane % 4 / 2 * 128 + lane % 2 * 16; }

  __device__ static float dot(const Tables&, const u8* row, int lane, int count, const X& x) {
    if (lane / 4 * 256 >= count) return 0.0f;
    const u8* block = row + lane / 4 * 84;
    const int half = lane % 4 / 2, odd = lane % 2;
    const u32 d = load_u32(block + 80);
    // Scales of this half: bytes 2j + odd.
    const u32 sc[2] = {load_u32(block + 8 * half) >> (8 * odd), load_u32(block + 8 * half + 4) >> (8 * odd)};
    u32 w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = load_u32(block + 16 + 32 * half + 16 * odd + 4 * i);
    float sum = 0.0f, minima = 0.0f;
    add<0>(w, sc[0], x, sum, minima);
    add<1>(w, sc[0] >> 16, x, sum, minima);
    add<2>(w, sc[1], x, sum, minima);
    add<3>(w, sc[1] >> 16, x, sum, minima);
    return half_bits_to_float(d & 0xffff) * sum - half_bits_to_float(d >> 16) * minima;
  }

 private:
  template <int J>
  __device__ static void add(const u32 (&w)[4], u32 sc, const X& x, float& sum, float& minima) {
    u32 q[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i] = w[i] >> (2 * J) & 0x03030303u;
    sum = fmaf(byte_to_float(sc & 15, 0) * x.scale[J], x.dot<4 * J>(q), sum);
    minima = fmaf(byte_to_float(sc >> 4 & 15, 0), x.sum[J], minima);
  }
};
