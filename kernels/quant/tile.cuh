// Products for many tokens: a block computes 64 tokens × 64 weight rows on the tensor cores, 32 elements a step.
//
// The tensor cores multiply f16 and add in f32, and both operands get there without loss. A weight is scale · q − min
// (quant/format.cuh) with q exact in f16. An activation is scaled by a power of two per 32 and split into two f16 whose
// sum has 22 bits: with XPARTS = 2 the product is as good as f32 FMA, for twice the tensor work; with XPARTS = 1 the
// activations are rounded to f16. Scales and minima are applied to the f32 sums of each group.
//
// Steps are double-buffered: while one is multiplied, the next one's loads are in flight into registers.
#pragma once
#include "common/mma.cuh"
#include "quant/format.cuh"
#include "quant/plain.cuh"

constexpr int kTileTokens = 64;
constexpr int kTileRows = 64;
constexpr int kTileStep = 32;
constexpr int kTileThreads = 128;  // four warps, 2 × 2, each 32 tokens × 32 rows
// f16 per staged row. 80 bytes: eight rows of a ldmatrix start in eight different 16-byte bank groups.
constexpr int kTilePitch = 40;

template <class W, int XPARTS>
struct TileStage {
  static constexpr int kGroups = kTileStep / W::kGroup;
  alignas(16) u16 x[XPARTS][kTileTokens][kTilePitch];
  alignas(16) u16 w[W::kParts][kTileRows][kTilePitch];
  float x_scale[kTileTokens];
  float x_sum[kGroups][kTileTokens];  // for the minima
  float scale[kGroups][kTileRows];
  float min[kGroups][kTileRows];
};

// Blocks of an SM that registers are to be kept for: as many as fit with at most a few words spilled.
template <class W>
constexpr int kTileBlocks = W::kParts > 1 ? 2 : W::kGroup < kTileStep ? 3 : 4;

template <class W, int XPARTS>
class Tile {
 public:
  using Stage = TileStage<W, XPARTS>;
  // Σ_k of token 32·(warp / 2) + 16·i + lane / 4 (+ 8 for elements 2, 3) and tile row
  // 32·(warp % 2) + 8·j + lane % 4 · 2 (+ 1 for elements 1, 3).
  float acc[2][4][4] = {};

  __device__ static int warp_token() { return 32 * (threadIdx.x / 64); }
  __device__ static int warp_row() { return 32 * (threadIdx.x / 32 % 2); }
  __device__ static int token(int i, int element) {
    return warp_token() + 16 * i + threadIdx.x % 32 / 4 + element / 2 * 8;
  }
  __device__ static int row(int j, int element) { return warp_row() + 8 * j + threadIdx.x % 4 * 2 + element % 2; }
  // Which token's x this thread stages in pass p of 4, and which row of the weights.
  __device__ static int staged_token(int p) { return 16 * p + threadIdx.x / 8; }
  __device__ static int staged_row() { return threadIdx.x / 2; }

  // `x[p]`, `w`: what the thread stages; null stands for zeros. Only the first `tokens` and `rows` of the tile's are
  // there: products of 16 × 32 that nobody will read are not formed, which is most of them where experts have few
  // tokens. All threads of the block must come here.
  __device__ void run(Stage (&stages)[2], const float* const (&x)[4], const u8* w, int k, int tokens, int rows) {
    tokens_ = tokens;
    const int left = warp_row() < rows ? tokens - warp_token() : 0;
    load(x, w, 0, k);
    store(stages[0]);
    __syncthreads();
    int current = 0;
    for (int e = 0; e < k; e += kTileStep, current ^= 1) {
      const bool more = e + kTileStep < k;
      if (more) load(x, w, e + kTileStep, k);
      if (left > 16) {
        multiply<2>(stages[current]);
      } else if (left > 0) {
        multiply<1>(stages[current]);
      }
      if (more) store(stages[current ^ 1]);
      __syncthreads();
    }
  }

 private:
  float4 x_[4];
  typename W::Chunk chunk_;
  int tokens_;

  __device__ void load(const float* const (&x)[4], const u8* w, int e, int k) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      x_[p] = x[p] == nullptr ? make_float4(0, 0, 0, 0) : load4(x[p], e + threadIdx.x % 8 * 4, k);
    }
    chunk_ = W::load(w, e + threadIdx.x % 2 * 16, w == nullptr ? 0 : k);
  }

  __device__ void store(Stage& s) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      if (16 * p >= tokens_) break;
      const float v[4] = {x_[p].x, x_[p].y, x_[p].z, x_[p].w};
      const int token = staged_token(p), at = threadIdx.x % 8 * 4;
      float amax = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
      // The eight threads of a token are neighbours in a warp.
      for (int lanes = 4; lanes > 0; lanes >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, lanes));
      float scale, inverse;
      split_scale(amax, scale, inverse);
      u32 part[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) split_half(v[i] * inverse, part[0][i], part[1][i]);
#pragma unroll
      for (int n = 0; n < XPARTS; ++n) {
        *reinterpret_cast<uint2*>(&s.x[n][token][at]) =
            make_uint2(part[n][0] | part[n][1] << 16, part[n][2] | part[n][3] << 16);
      }
      if (at == 0) s.x_scale[token] = scale;
      if (W::kMin) {
        // Of the activations as multiplied: a minimum cancels most of scale · q, and must meet the same rounding there.
        float u[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) u[i] = XPARTS == 2 ? v[i] : half_bits_to_float(part[0][i]) * scale;
        float sum = (u[0] + u[1]) + (u[2] + u[3]);
        for (int lanes = 1; lanes < W::kGroup / 4; lanes <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        if (at % W::kGroup == 0) s.x_sum[at / W::kGroup][token] = sum;
      }
    }
    u32 q[W::kParts][8];
    float scale, min;
    W::halves(chunk_, q, scale, min);
    const int row = staged_row(), at = threadIdx.x % 2 * 16;
#pragma unroll
    for (int n = 0; n < W::kParts; ++n) {
      uint4* to = reinterpret_cast<uint4*>(&s.w[n][row][at]);
      to[0] = make_uint4(q[n][0], q[n][1], q[n][2], q[n][3]);
      to[1] = make_uint4(q[n][4], q[n][5], q[n][6], q[n][7]);
    }
    if (at % W::kGroup == 0) {
      s.scale[at / W::kGroup][row] = scale;
      s.min[at / W::kGroup][row] = min;
    }
  }

  // The first 16 · TILES of the warp's tokens.
  template <int TILES>
  __device__ void multiply(const Stage& s) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int group = 0; group < Stage::kGroups; ++group) {
      float sum[TILES][4][4] = {};
#pragma unroll
      for (int at = group * W::kGroup; at < (group + 1) * W::kGroup; at += 16) {
        u32 a[XPARTS][TILES][4], b[W::kParts][4][2];
#pragma unroll
        for (int n = 0; n < XPARTS; ++n) {
#pragma unroll
          for (int i = 0; i < TILES; ++i) {
            ldmatrix_x4(a[n][i], &s.x[n][warp_token() + 16 * i + lane % 16][at + lane / 16 * 8]);
          }
        }
#pragma unroll
        for (int n = 0; n < W::kParts; ++n) {
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            u32 r[4];
            ldmatrix_x4(r, &s.w[n][warp_row() + 8 * j + lane / 16 * 8 + lane % 8][at + lane / 8 % 2 * 8]);
            b[n][j][0] = r[0], b[n][j][1] = r[1], b[n][j + 1][0] = r[2], b[n][j + 1][1] = r[3];
          }
        }
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int n = 0; n < XPARTS; ++n) {
#pragma unroll
              for (int m = 0; m < W::kParts; ++m) {
                // The product of two low parts is below the last bit of f32.
                if (n + m < 2) mma_m16n8k16_f16(sum[i][j], a[n][i], b[m][j]);
              }
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int d = 0; d < 4; ++d) {
            const int t = token(i, d), r = row(j, d);
            acc[i][j][d] = fmaf(s.x_scale[t] * s.scale[group][r], sum[i][j][d], acc[i][j][d]);
            if (W::kMin) acc[i][j][d] = fmaf(-s.min[group][r], s.x_sum[group][t], acc[i][j][d]);
          }
        }
      }
    }
  }
};
