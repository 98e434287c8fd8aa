// IQ2_XXS (docs/model.md §2.4): 256 elements in 66 bytes. f16 d, then for every 32 elements four bytes that index the
// grid and a word of four 7-bit sign indices and a 4-bit s; value d·(0.5 + s)·0.25·grid·sign.
#pragma once
#include "quant/format.cuh"
#include "quant/limbs.cuh"

// The codebook: eight unsigned bytes an entry, each 8, 25 or 43, element 0 lowest. In global memory, not constant:
// lanes look up different entries, which constant memory would serve one after another; 2 KB stay in L1.
__device__ const u64 kIq2xxsGrid[256] = {
  0x0808080808080808ull, 0x080808080808082bull, 0x0808080808081919ull, 0x0808080808082b08ull,
  0x0808080808082b2bull, 0x0808080808190819ull, 0x0808080808191908ull, 0x08080808082b0808ull,
  0x08080808082b082bull, 0x08080808082b2b08ull, 0x08080808082b2b2bull, 0x0808080819080819ull,
  0x0808080819081908ull, 0x0808080819190808ull, 0x0808080819192b08ull, 0x08080808192b0819ull,
  0x08080808192b1908ull, 0x080808082b080808ull, 0x080808082b08082bull, 0x080808082b082b2bull,
  0x080808082b2b082bull, 0x0808081908080819ull, 0x0808081908081908ull, 0x0808081908190808ull,
  0x0808081908191919ull, 0x0808081919080808ull, 0x080808192b081908ull, 0x080808192b192b08ull,
  0x0808082b08080808ull, 0x0808082b0808082bull, 0x0808082b082b082bull, 0x0808082b2b08082bull,
  0x0808190808080819ull, 0x0808190808081908ull, 0x0808190808190808ull, 0x08081908082b0819ull,
  0x08081908082b1908ull, 0x0808190819080808ull, 0x080819081908082bull, 0x0808190819082b08ull,
  0x08081908192b0808ull, 0x080819082b080819ull, 0x080819082b081908ull, 0x080819082b190808ull,
  0x080819082b2b1908ull, 0x0808191908080808ull, 0x080819190808082bull, 0x0808191908082b08ull,
  0x08081919082b0808ull, 0x080819191908192bull, 0x08081919192b2b19ull, 0x080819192b080808ull,
  0x080819192b190819ull, 0x0808192b08082b19ull, 0x0808192b08190808ull, 0x0808192b19080808ull,
  0x0808192b2b081908ull, 0x0808192b2b2b1908ull, 0x08082b0808080808ull, 0x08082b0808081919ull,
  0x08082b0808082b08ull, 0x08082b0808191908ull, 0x08082b08082b2b08ull, 0x08082b0819080819ull,
  0x08082b0819081908ull, 0x08082b0819190808ull, 0x08082b081919082bull, 0x08082b082b082b08ull,
  0x08082b1908081908ull, 0x08082b1919080808ull, 0x08082b2b0808082bull, 0x08082b2b08191908ull,
  0x0819080808080819ull, 0x0819080808081908ull, 0x0819080808190808ull, 0x08190808082b0819ull,
  0x0819080819080808ull, 0x08190808192b0808ull, 0x081908082b081908ull, 0x081908082b190808ull,
  0x081908082b191919ull, 0x0819081908080808ull, 0x0819081908082b08ull, 0x08190819082b0808ull,
  0x0819081919190808ull, 0x0819081919192b2bull, 0x081908192b080808ull, 0x0819082b082b1908ull,
  0x0819082b19081919ull, 0x0819190808080808ull, 0x0819190808082b08ull, 0x08191908082b0808ull,
  0x08191908082b1919ull, 0x0819190819082b19ull, 0x081919082b080808ull, 0x0819191908192b08ull,
  0x08191919192b082bull, 0x0819192b08080808ull, 0x0819192b0819192bull, 0x08192b0808080819ull,
  0x08192b0808081908ull, 0x08192b0808190808ull, 0x08192b0819080808ull, 0x08192b082b080819ull,
  0x08192b1908080808ull, 0x08192b1908081919ull, 0x08192b192b2b0808ull, 0x08192b2b19190819ull,
  0x082b080808080808ull, 0x082b08080808082bull, 0x082b080808082b2bull, 0x082b080819081908ull,
  0x082b0808192b0819ull, 0x082b08082b080808ull, 0x082b08082b08082bull, 0x082b0819082b2b19ull,
  0x082b081919082b08ull, 0x082b082b08080808ull, 0x082b082b0808082bull, 0x082b190808080819ull,
  0x082b190808081908ull, 0x082b190808190808ull, 0x082b190819080808ull, 0x082b19081919192bull,
  0x082b191908080808ull, 0x082b191919080819ull, 0x082b1919192b1908ull, 0x082b192b2b190808ull,
  0x082b2b0808082b08ull, 0x082b2b08082b0808ull, 0x082b2b082b191908ull, 0x082b2b2b19081908ull,
  0x1908080808080819ull, 0x1908080808081908ull, 0x1908080808190808ull, 0x1908080808192b08ull,
  0x19080808082b0819ull, 0x19080808082b1908ull, 0x1908080819080808ull, 0x1908080819082b08ull,
  0x190808081919192bull, 0x19080808192b0808ull, 0x190808082b080819ull, 0x190808082b081908ull,
  0x190808082b190808ull, 0x1908081908080808ull, 0x19080819082b0808ull, 0x19080819192b0819ull,
  0x190808192b080808ull, 0x190808192b081919ull, 0x1908082b08080819ull, 0x1908082b08190808ull,
  0x1908082b19082b08ull, 0x1908082b1919192bull, 0x1908082b192b2b08ull, 0x1908190808080808ull,
  0x1908190808082b08ull, 0x19081908082b0808ull, 0x190819082b080808ull, 0x190819082b192b19ull,
  0x190819190819082bull, 0x19081919082b1908ull, 0x1908192b08080808ull, 0x19082b0808080819ull,
  0x19082b0808081908ull, 0x19082b0808190808ull, 0x19082b0819080808ull, 0x19082b0819081919ull,
  0x19082b1908080808ull, 0x19082b1919192b08ull, 0x19082b19192b0819ull, 0x19082b192b08082bull,
  0x19082b2b19081919ull, 0x19082b2b2b190808ull, 0x1919080808080808ull, 0x1919080808082b08ull,
  0x1919080808190819ull, 0x1919080808192b19ull, 0x19190808082b0808ull, 0x191908082b080808ull,
  0x191908082b082b08ull, 0x1919081908081908ull, 0x191908191908082bull, 0x191908192b2b1908ull,
  0x1919082b2b190819ull, 0x191919082b190808ull, 0x191919082b19082bull, 0x1919191908082b2bull,
  0x1919192b08080819ull, 0x1919192b19191908ull, 0x19192b0808080808ull, 0x19192b0808190819ull,
  0x19192b0808192b19ull, 0x19192b08192b1908ull, 0x19192b1919080808ull, 0x19192b2b08082b08ull,
  0x192b080808081908ull, 0x192b080808190808ull, 0x192b080819080808ull, 0x192b0808192b2b08ull,
  0x192b081908080808ull, 0x192b081919191919ull, 0x192b082b08192b08ull, 0x192b082b192b0808ull,
  0x192b190808080808ull, 0x192b190808081919ull, 0x192b191908190808ull, 0x192b19190819082bull,
  0x192b19192b081908ull, 0x192b2b081908082bull, 0x2b08080808080808ull, 0x2b0808080808082bull,
  0x2b08080808082b2bull, 0x2b08080819080819ull, 0x2b0808082b08082bull, 0x2b08081908081908ull,
  0x2b08081908192b08ull, 0x2b08081919080808ull, 0x2b08082b08190819ull, 0x2b08190808080819ull,
  0x2b08190808081908ull, 0x2b08190808190808ull, 0x2b08190808191919ull, 0x2b08190819080808ull,
  0x2b081908192b0808ull, 0x2b08191908080808ull, 0x2b0819191908192bull, 0x2b0819192b191908ull,
  0x2b08192b08082b19ull, 0x2b08192b19080808ull, 0x2b08192b192b0808ull, 0x2b082b080808082bull,
  0x2b082b1908081908ull, 0x2b082b2b08190819ull, 0x2b19080808081908ull, 0x2b19080808190808ull,
  0x2b190808082b1908ull, 0x2b19080819080808ull, 0x2b1908082b2b0819ull, 0x2b1908190819192bull,
  0x2b1908192b080808ull, 0x2b19082b19081919ull, 0x2b19190808080808ull, 0x2b191908082b082bull,
  0x2b19190819081908ull, 0x2b19191919190819ull, 0x2b192b082b080819ull, 0x2b192b19082b0808ull,
  0x2b2b08080808082bull, 0x2b2b080819190808ull, 0x2b2b08082b081919ull, 0x2b2b081908082b19ull,
  0x2b2b082b08080808ull, 0x2b2b190808192b08ull, 0x2b2b2b0819190808ull, 0x2b2b2b1908081908ull,
};

struct IQ2_XXS {
  static constexpr int kElems = 256;
  static constexpr int kBytes = 66;
  static constexpr bool kMin = false;

  struct Chunk {
    u32 q[4];    // four bytes each: magnitudes
    u32 signs;   // bit i: element i is negative
    float scale;
  };

  __device__ static Chunk load(const u8* row, int e, int k) {
    Chunk c = {{0, 0, 0, 0}, 0, 0.0f};
    if (e >= k) return c;
    const u8* block = row + e / kElems * static_cast<long long>(kBytes);
    const u8* group = block + 2 + e % 256 / 32 * 8;
    const int half = e % 32 / 16;
    const u32 entries = load_u16(group + 2 * half);
    const u32 word = load_u32_even(group + 4);
    const u64 first = kIq2xxsGrid[entries & 0xff], second = kIq2xxsGrid[entries >> 8];
    c.q[0] = static_cast<u32>(first);
    c.q[1] = static_cast<u32>(first >> 32);
    c.q[2] = static_cast<u32>(second);
    c.q[3] = static_cast<u32>(second >> 32);
    c.signs = sign_byte(word >> (14 * half)) | sign_byte(word >> (14 * half + 7)) << 8;
    c.scale = half_bits_to_float(load_u16(block)) * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    return c;
  }

  // Seven stored signs; the eighth makes the number of negatives even.
  __device__ static u32 sign_byte(u32 index) {
    index &= 127;
    return index | (__popc(index) & 1) << 7;
  }

  __device__ static void floats(const Chunk& c, float (&q)[16], float& scale, float& min) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float magnitude = byte_to_float(c.q[i / 4], i % 4);
      q[i] = __uint_as_float(__float_as_uint(magnitude) | (c.signs >> i & 1) << 31);
    }
    scale = c.scale;
    min = 0.0f;
  }
};

// For quant/stream.cuh: a lane has two groups of 32, 16 bytes of indices and signs. The grid's three magnitudes and their
// negatives are six bytes, which one byte permute looks up by three bits: four weights at a time from 16 bits of
// selectors. A grid entry is stored as eight selectors without signs, a sign index as what is to be added to them.
struct IQ2_XXSLane {
  static constexpr int kSliceBytes = kSlice / 256 * 66;
  static constexpr int kRows = 4;
  static constexpr int kStages = 2;
  static constexpr int kStride = 16;
  using X = LaneLimbs;

  // Lanes look up different entries: each finds its own bank where there are 32 copies, and one other lane at most in
  // the same where there are 16.
  struct Tables {
    alignas(16) u32 grid[256][32];
    alignas(16) u32 signs[128][16];
  };

  __device__ static void fill(Tables& t) {
    for (int i = threadIdx.x; i < 256 * 8; i += blockDim.x) {
      const u64 entry = kIq2xxsGrid[i / 8];
      // 8, 25, 43 are 0, 1, 2 in their upper halves.
      const u32 v = selectors(static_cast<u32>(entry)) | selectors(static_cast<u32>(entry >> 32)) << 16;
      *reinterpret_cast<uint4*>(&t.grid[i / 8][i % 8 * 4]) = make_uint4(v, v, v, v);
    }
    for (int i = threadIdx.x; i < 128 * 4; i += blockDim.x) {
      const u32 signs = IQ2_XXS::sign_byte(i / 4);
      u32 v = 0;
#pragma unroll
      for (int bit = 0; bit < 8; ++bit) v |= (signs >> bit & 1) << (4 * bit + 2);
      *reinterpret_cast<uint4*>(&t.signs[i / 4][i % 4 * 4]) = make_uint4(v, v, v, v);
    }
  }
  __device__ static int first(int lane) { return 64 * lane; }

  __device__ static float dot(const Tables& t, const u8* row, int lane, int count, const X& x) {
    if (64 * lane >= count) return 0.0f;
    const u8* block = row + lane / 4 * 66;
    const u8* at = block + 2 + lane % 4 * 16;
    // Every other block starts off a word.
    const u32 off = reinterpret_cast<u64>(at) & 2;
    u32 w[5], u[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = load_u32(at - off + 4 * i);
    w[4] = off == 0 ? 0 : load_u16(at + 14);
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] = __byte_perm(w[i], w[i + 1], off == 0 ? 0x3210 : 0x5432);
    const float d = half_bits_to_float(load_u16(block)) * 0.25f;
    u32 q[8];
    weights(t, u[0], u[1], lane, q);
    const float first = steps(u[1]) * x.scale[0] * x.dot<0>(q);
    weights(t, u[2], u[3], lane, q);
    return d * fmaf(steps(u[3]) * x.scale[2], x.dot<8>(q), first);
  }

 private:
  __device__ static u32 selectors(u32 magnitudes) {
    const u32 v = magnitudes >> 4 & 0x03030303u, pairs = v | v >> 4;
    return (pairs & 0xffu) | (pairs >> 8 & 0xff00u);
  }

  // The group's scale in d's: 0.5 + the upper four bits, which stand in the mantissa of 2^23.
  __device__ static float steps(u32 word) { return __uint_as_float(0x4b000000u | word >> 28) - 8388607.5f; }

  __device__ static void weights(const Tables& t, u32 entries, u32 signs, int lane, u32 (&q)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 select = t.grid[entries >> (8 * i) & 0xff][lane] | t.signs[signs >> (7 * i) & 0x7f][lane % 16];
      q[2 * i] = __byte_perm(0x002b1908u, 0x00d5e7f8u, select & 0xffffu);
      q[2 * i + 1] = __byte_perm(0x002b1908u, 0x00d5e7f8u, select >> 16);
    }
  }
};
