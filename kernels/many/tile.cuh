// Products for many tokens on the tensor cores: a block of eight warps computes up to TOKENS tokens × 256 weight rows.
//
// The weights are the A operand, 16 rows × 16 of K, the tokens the B operand, 8 at a time. A warp has 32 weight rows of
// its own and all of the block's tokens, so a weight is expanded to f16 by the one thread that multiplies it, in
// registers, once per tile; and what no token needs is left out in steps of 16 tokens. Only activations pass through
// shared memory: they come as f16 (activations.cuh), 128 of K a step, by asynchronous copies a step or two ahead.
//
// Thread 4g + t of a warp takes part in rows g and g + 8 of each 16. The K of one product instruction may be any 16
// elements that weights and tokens agree on, so a thread takes 8 consecutive elements, a *chunk*, for two of them; which
// ones is the format's choice (`Operand<W>::chunk`), by what it has to load and unpack for them.
//
// Both operands are exact in f16 but for a factor: the row's power of two on the one side, a block's scale on the other
// (an Operand folds the finer scales of a block into its f16). Where a factor holds for 256 elements and the activations
// are rounded anyhow, sums run on in the tensor cores, in units of the block's scale, and are converted where that
// changes. Else each 32 of K are summed up from zero and added in f32, since tensor cores truncate what they add.
#pragma once
#include "common/async.cuh"
#include "common/mma.cuh"
#include "many/activations.cuh"

constexpr int kManyWarps = 8;
constexpr int kManyThreads = 32 * kManyWarps;
constexpr int kManyRows = 32 * kManyWarps;

// How a format's weights become the tensor cores' operand: specialised beside this file, with
//   kParts       f16 numbers for a weight to be exact: 1, or 2 for f32
//   kMinGroup    elements that share a minimum; 0: none
//   kScaled      whether a block has a scale
//   kUnitScale   whether there is one for every 32 elements; else one for 256
//   kSpan        chunks of a thread that are loaded together: 1, 2 or 4
//   Table        what it wants to have in shared memory, filled by fill(table)
//   Raw          registers that hold a row's chunks as stored
//   chunk(c, t)  which of a step's 16 chunks thread t takes as its c-th of 4
//   load(row, e, c, t, k)             Raw for chunks c .. c + kSpan of the step from element e; zeros from k on
//   halves(raw, table, c, t, q, scale)  chunk c % kSpan as f16 pairs, and what they are multiples of
//   block_scale(raw)                  the same scale, where it is not kUnitScale's
//   minima(row, e, t, a, min)         of the 256 elements from e, as A operand halves a[2] for this row, and their scale
template <class W>
struct Operand;

struct NoTable {};

constexpr u32 kUnsignedBias = 0x64006400u;  // 1024, 1024
constexpr u32 kSignedBias = 0x64806480u;    // 1152, 1152

// Four bytes as two pairs of f16, each 1024 more than the byte: 0x6400 is 1024, whose mantissa counts ones.
__device__ inline void byte_pairs(u32 v, u32 (&pairs)[2]) {
  pairs[0] = __byte_perm(v, 0x64646464u, 0x4140);
  pairs[1] = __byte_perm(v, 0x64646464u, 0x4342);
}

union HalfPair {
  u32 bits;
  __half2 h;
};

// Less the bias: kUnsignedBias, or kSignedBias for signed bytes with their top bit flipped.
__device__ inline void byte_halves(u32 v, u32 bias, u32& low, u32& high) {
  u32 pairs[2];
  byte_pairs(v, pairs);
  HalfPair a, b, c;
  a.bits = pairs[0], b.bits = pairs[1], c.bits = bias;
  a.h = __hsub2(a.h, c.h);
  b.h = __hsub2(b.h, c.h);
  low = a.bits, high = b.bits;
}

// Both halves `whole`, from 0 to 1023.
__device__ inline __half2 whole_halves(u32 whole) {
  HalfPair v, bias;
  v.bits = 0x64006400u | whole * 0x10001u;
  bias.bits = kUnsignedBias;
  return __hsub2(v.h, bias.h);
}

// Four bytes times a factor below 64, all products below 2048 and so exact: (1024 + q)·f − 1024·f, rounded once.
__device__ inline void scaled_bytes(u32 v, u32 factor, u32& low, u32& high) {
  u32 pairs[2];
  byte_pairs(v, pairs);
  HalfPair minus, a, b;
  minus.bits = 0xe400e400u;  // −1024
  const __half2 f = whole_halves(factor), bias = __hmul2(f, minus.h);
  a.bits = pairs[0], b.bits = pairs[1];
  a.h = __hfma2(a.h, f, bias);
  b.h = __hfma2(b.h, f, bias);
  low = a.bits, high = b.bits;
}

template <class W, int XPARTS, int TOKENS>
struct ManyShared {
  static constexpr int kStages = XPARTS == 1 ? 3 : 2;
  static constexpr int kSums = kSumHalves<Operand<W>::kMinGroup>;
  struct Stage {
    u16 x[XPARTS][TOKENS][kManyStep];
    u16 sums[kSums == 0 ? 1 : TOKENS][kSums == 0 ? 8 : kSums];
  };
  alignas(16) Stage stages[kStages];
  alignas(16) typename Operand<W>::Table table;
  int row[TOKENS];  // of the activations; −1: none
};

template <class W, int XPARTS, int TOKENS>
class ManyTile {
 public:
  using Op = Operand<W>;
  using Shared = ManyShared<W, XPARTS, TOKENS>;
  using X = Activations<XPARTS, Op::kMinGroup>;
  // Σ_k of the warp's row 16·i + lane / 4 (+ 8 for elements 2, 3) and token 8·j + lane % 4 · 2 (+ 1 for elements 1, 3),
  // in units of the token's scale.
  float acc[2][TOKENS / 8][4] = {};

  __device__ static int row(int i, int element) { return 16 * i + threadIdx.x % 32 / 4 + element / 2 * 8; }
  __device__ static int token(int j, int element) { return 8 * j + threadIdx.x % 4 * 2 + element % 2; }

  // `w[i][r]`: the weight row of row(i, 2r). The caller has filled shared.row. `tokens`: how many there are, the same in
  // all threads of the block, which must all come here; `active`: whether the warp's products are wanted.
  __device__ void run(Shared& shared, const X& x, const u8* const (&w)[2][2], int k, int tokens, bool active) {
    Op::fill(shared.table);
    __syncthreads();
    const int most = active ? tokens : 0;
    if (tokens <= 8) {
      steps<1>(shared, x, w, k, most);
    } else if (tokens <= 16) {
      steps<2>(shared, x, w, k, most);
    } else if (tokens <= 32) {
      steps<4>(shared, x, w, k, most);
    } else if (TOKENS == 64 && tokens <= 48) {
      steps<6>(shared, x, w, k, most);
    } else if (tokens <= 64) {
      steps<8>(shared, x, w, k, most);
    } else {
      steps<TOKENS / 8>(shared, x, w, k, most);
    }
    if (kRunning) {
#pragma unroll
      for (int i = 0; i < 2; ++i) scale_rows<TOKENS / 8>(i, unit_[i][0], unit_[i][1]);
    }
  }

 private:
  // Whether sums stay in the tensor cores' accumulators.
  static constexpr bool kRunning = XPARTS == 1 && Op::kParts == 1 && !Op::kUnitScale;
  // Whether weights are loaded a span ahead. Else blocks are small enough for two on an SM, which hides as much.
  static constexpr bool kAhead = Op::kSpan < 4 || !kRunning;
  float unit_[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};

  // Eight rows that are read together start at different banks, whichever chunks the format takes.
  __device__ static int place(int token, int chunk) { return chunk ^ (chunk >> 3 & 1) ^ (token & 1) * 6; }

  template <int J>
  __device__ void scale_rows(int i, float first, float second) {
#pragma unroll
    for (int j = 0; j < J; ++j) {
      acc[i][j][0] *= first, acc[i][j][1] *= first;
      acc[i][j][2] *= second, acc[i][j][3] *= second;
    }
  }

  __device__ static void copy(Shared& shared, const X& x, int step) {
    typename Shared::Stage& stage = shared.stages[step % Shared::kStages];
    const int chunk = threadIdx.x % 16;
#pragma unroll
    for (int at = threadIdx.x / 16; at < TOKENS; at += kManyThreads / 16) {
      const int row = shared.row[at];
      if (row < 0) continue;
      const u16* from = x.x + static_cast<long long>(row) * (XPARTS * x.width) + step * kManyStep + 8 * chunk;
#pragma unroll
      for (int n = 0; n < XPARTS; ++n) cp_async_16(&stage.x[n][at][8 * place(at, chunk)], from + n * x.width);
    }
    // The sums of 256 come with the second step of these.
    if (Op::kMinGroup != 0 && step % 2 == 1) {
      constexpr int kEach = Op::kMinGroup == 0 ? 1 : Shared::kSums / 8;
      for (int i = threadIdx.x; i < TOKENS * kEach; i += kManyThreads) {
        const int row = shared.row[i / kEach], at = i % kEach * 8;
        if (row >= 0) cp_async_16(&stage.sums[i / kEach][at], x.row_sums(row) + step / 2 * Shared::kSums + at);
      }
    }
  }

  template <int J>
  __device__ void steps(Shared& shared, const X& x, const u8* const (&w)[2][2], int k, int tokens) {
    constexpr int kStages = Shared::kStages, kSpans = 4 / Op::kSpan;
    // Four chunks one after the other would be moved into each other, at the price of registers that are not there.
    constexpr int kUnroll = Op::kSpan == 4 ? 1 : Op::kSpan;
    const int count = x.width / kManyStep, t = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < count) copy(shared, x, step);
      cp_async_commit();
    }
    typename Op::Raw raw[2][2];
    if (kAhead && tokens > 0) load(raw, w, 0, 0, k);
    for (int step = 0; step < count; ++step) {
      if (!kAhead && tokens > 0) load(raw, w, step * kManyStep, 0, k);
      cp_async_wait<kStages - 2>();
      // The step's copies are everyone's now, and nobody reads the stage of the step before any more.
      __syncthreads();
      if (step + kStages - 1 < count) copy(shared, x, step + kStages - 1);
      cp_async_commit();
      const typename Shared::Stage& stage = shared.stages[step % kStages];
#pragma unroll
      for (int span = 0; span < kSpans; ++span) {
        if (tokens == 0) continue;
        if (kRunning && Op::kScaled && span == 0 && step % 2 == 0) change_units<J>(raw);
        typename Op::Raw next[2][2];
        if (kAhead) {
          // Behind the last one comes the last one again, to no use.
          const int after = min(step * kSpans + span + 1, count * kSpans - 1);
          load(next, w, after / kSpans * kManyStep, after % kSpans * Op::kSpan, k);
        }
#pragma unroll kUnroll
        for (int c = span * Op::kSpan; c < (span + 1) * Op::kSpan; ++c) multiply<J>(stage, shared.table, raw, c, t);
        if (kAhead) {
#pragma unroll
          for (int i = 0; i < 4; ++i) raw[i / 2][i % 2] = next[i / 2][i % 2];
        }
      }
      if constexpr (Op::kMinGroup != 0) {
        if (step % 2 == 1 && tokens > 0) subtract<J>(stage, w, step / 2 * 256);
      }
    }
    cp_async_wait<0>();
  }

  __device__ static void load(typename Op::Raw (&raw)[2][2], const u8* const (&w)[2][2], int e, int c, int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) raw[i / 2][i % 2] = Op::load(w[i / 2][i % 2], e, c, threadIdx.x % 4, k);
  }

  // Sums go on in units of the next block's scale.
  template <int J>
  __device__ void change_units(const typename Op::Raw (&raw)[2][2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float ratio[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float scale = Op::block_scale(raw[i][r]);
        // A block of zeros adds nothing in any unit (`halves` says so too).
        ratio[r] = scale == 0.0f ? 1.0f : __fdividef(unit_[i][r], scale);
        if (scale != 0.0f) unit_[i][r] = scale;
      }
      scale_rows<J>(i, ratio[0], ratio[1]);
    }
  }

  template <int J>
  __device__ void multiply(const typename Shared::Stage& stage, const typename Op::Table& table,
                           const typename Op::Raw (&raw)[2][2], int c, int t) {
    u32 a[2][Op::kParts][2][4];
    float scale[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        u32 q[Op::kParts][4];
        Op::halves(raw[i][r], table, c, t, q, scale[i][r]);
#pragma unroll
        for (int m = 0; m < Op::kParts; ++m) {
          a[i][m][0][r] = q[m][0], a[i][m][0][2 + r] = q[m][1];
          a[i][m][1][r] = q[m][2], a[i][m][1][2 + r] = q[m][3];
        }
      }
    }
    const int token = threadIdx.x % 32 / 4;
    const u16* from = &stage.x[0][token][8 * place(token, Op::chunk(c, t))];
    // So many tokens at once that a product need not wait for the one before it.
    constexpr int kEach = J == 1 ? 1 : 2;
#pragma unroll
    for (int j0 = 0; j0 < J; j0 += kEach) {
      u32 b[kEach][XPARTS][2][2];
      float sum[kEach][2][4] = {};
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
#pragma unroll
        for (int n = 0; n < XPARTS; ++n) {
          const uint4 v = *reinterpret_cast<const uint4*>(from + (n * TOKENS + 8 * (j0 + j)) * kManyStep);
          b[j][n][0][0] = v.x, b[j][n][0][1] = v.y, b[j][n][1][0] = v.z, b[j][n][1][1] = v.w;
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < XPARTS; ++n) {
#pragma unroll
          for (int m = 0; m < Op::kParts; ++m) {
            // The product of two low parts is below the last bit of f32.
            if (n + m >= 2) continue;
#pragma unroll
            for (int j = 0; j < kEach; ++j) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                mma_m16n8k16_f16(kRunning ? acc[i][j0 + j] : sum[j][i], a[i][m][h], b[j][n][h]);
              }
            }
          }
        }
      }
      if (!kRunning) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int d = 0; d < 4; ++d) acc[i][j0 + j][d] = fmaf(scale[i][d / 2], sum[j][i][d], acc[i][j0 + j][d]);
          }
        }
      }
    }
  }

  // The minima of 256 elements: another product, of the groups' minima with the sums of their activations.
  template <int J>
  __device__ void subtract(const typename Shared::Stage& stage, const u8* const (&w)[2][2], int e) {
    constexpr int kParts = Op::kMinGroup == 16 ? 2 : 1;  // 16 groups: a product for high parts, one for low; 8: both in one
    u32 a[2][4];
    float min[2][2];
    const int t = threadIdx.x % 4, token = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        u32 m[2];
        Op::minima(w[i][r], e, t, m, min[i][r]);
        a[i][r] = m[0], a[i][2 + r] = m[1];
        min[i][r] = kRunning ? __fdividef(min[i][r], unit_[i][r]) : min[i][r];
      }
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      u32 b[kParts][2];
      const u16* from = &stage.sums[8 * j + token][t * (Shared::kSums / 4)];
      if constexpr (kParts == 2) {
        const uint4 v = *reinterpret_cast<const uint4*>(from);
        b[0][0] = v.x, b[0][1] = v.y, b[1][0] = v.z, b[1][1] = v.w;
      } else {
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        b[0][0] = v.x, b[0][1] = v.y;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < kParts; ++n) mma_m16n8k16_f16(sum, a[i], b[n]);
#pragma unroll
        for (int d = 0; d < 4; ++d) acc[i][j][d] = fmaf(-min[i][d / 2], sum[d], acc[i][j][d]);
      }
    }
  }
};
