// The attention of attention.cuh on tensor cores, for many tokens: operands rounded to f16, sums in f32.
//
// rows_to_f16() first copies every row that the step may see to f16, once: a row is then fetched by up to T tokens at
// half the bytes, and straight into shared memory. attend() takes tiles of QUERIES queries, in Flash one token's 64
// heads, and walks a tile's rows BLOCK at a time. A block of rows goes through three stages, a step or more apart:
//
//   loads   asynchronous copies, three steps ahead, into one of BUFFERS buffers;
//   scores  four warps: 16 queries each, held in registers as fragments (16 × 512 f16 are 128 registers a lane); q·k,
//           the online softmax, and the weights to shared memory;
//   values  eight warps: 64 dims of all queries each, their f32 sums in registers (again 128).
//
// Scores of one block and values of the one before run at the same time, in different warps, so the tensor cores do
// not wait for the softmax; neither kind of warp would have registers for both jobs. A step ends in one barrier. The
// stages run on across tiles: while a tile's last values are summed and stored, the next tile's scores begin.
//
// Shared memory is what bounds a step: each score warp reads the whole block (4 × 32 KiB), the value warps read it once
// between them (32 KiB) and the weights once each (8 × 4 KiB), and the copies write it (32 KiB): 224 KiB or 1,792
// cycles, for 1,024 products of 16 × 8 × 16, which take the four tensor cores of a Hopper some 1,640.
#pragma once

#include "common/attention.cuh"
#include "common/halves.cuh"
#include "common/mma.cuh"

namespace attention {
namespace mma {

constexpr int QUERIES = 64;
constexpr int BLOCK = 32;  // rows
constexpr int BUFFERS = 4;
constexpr int VALUE_WARPS = 8, SCORE_WARPS = 4;
constexpr int THREADS = 32 * (VALUE_WARPS + SCORE_WARPS);
constexpr int PARTS = 1;  // f16 that a weight is split into

// A block of rows, as the loads announce it to the other stages.
struct Step {
  int first;  // whether it is a tile's first; −1: there are no more
  int last, tile;
};

// Of all tiles, the one whose rows are being loaded.
struct Place {
  int tiles;
  int tile;  // −1: there are no more
  Keys keys;
};

struct Shared {
  // Swizzled, or the eight rows that a fragment load takes would meet in one bank: the 16-byte chunk c of row r stands
  // where c ^ (r & 7) would, that of query i's weights where c ^ (i >> 1 & 3) would.
  __half rows[BUFFERS][BLOCK][DIM];
  __half weights[2][PARTS][QUERIES][BLOCK];
  int4 seen[BUFFERS][BLOCK / 2];  // first and last position of two rows
  float factor[2][QUERIES];       // what the sums before are to be multiplied by
  float inverse[2][QUERIES];      // with a tile's last block: 1/denominator
  int position[QUERIES];
  float2 softmax[2][32 * SCORE_WARPS];
  Step step[BUFFERS];
  Place place[VALUE_WARPS];  // each warp its own; registers are short
};
static_assert(sizeof(Shared) == 144176, "say the new size in the manifests");

// Tiles of neighbouring (token, head) pairs, across tokens where those have fewer heads than a tile has room for.
template <class Args>
__device__ inline int flat_tiles(const Args& a) {
  return a.D == DIM ? (*a.T * a.H + QUERIES - 1) / QUERIES : 0;
}
template <class Args>
__device__ inline Tile flat_tile(const Args& a, int i) {
  return attention::flat_tile(a, size_t(i) * QUERIES, QUERIES);
}

// ---- rows in f16 ----

constexpr int COPIERS = 256;  // threads of a block, a row for each warp

// Row `row` of the f16 rows: the ring's `cap`, then the compressed ones. Copies those that the step may see.
template <class Args>
__device__ inline void rows_to_f16(const Args& a, const float* comp, int visible) {
  const int row = blockIdx.x * (COPIERS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (a.D != DIM || *a.T <= 0) return;
  const float* from;
  if (row < a.cap) {
    // The last position that the ring row can hold, and the first that the step's first token sees.
    const int newest = *a.pos0 + *a.T - 1, position = newest - (newest % a.cap - row + a.cap) % a.cap;
    if (position < max(*a.pos0 + 1 - a.window, 0)) return;
    from = a.ring + size_t(row) * DIM;
  } else {
    if (row - a.cap >= visible) return;
    from = comp + size_t(row - a.cap) * DIM;
  }
  u32* to = (u32*)a.scratch + size_t(row) * (DIM / 2);
#pragma unroll
  for (int d = 4 * lane; d < DIM; d += 128) {
    const float4 v = *(const float4*)(from + d);
    *(uint2*)(to + d / 2) = {pack_halves(v.x, v.y), pack_halves(v.z, v.w)};
  }
}

// The one place where all warps meet, whatever they do.
__device__ inline void step_ends() { __syncthreads(); }

// Keeps what follows from `v` inside the loop that it stands in: dozens of addresses, each one instruction away, would
// else be computed ahead of it and take registers that are not there. No compiler looks through a shuffle.
__device__ __forceinline__ u32 computed_here(u32 v) { return __shfl_xor_sync(0xffffffffu, v, 0); }

// ---- loads: done by the value warps, eight threads a row ----

// Walks over this block's tiles and their blocks of rows, and leaves word for the other stages in Shared::step.
// `Work` says what the tiles are.
template <class Work>
struct Loader {
  Place& place;
  const __half* rows;
  int block = 0;  // the next one's number in its tile
  int id;         // of its row, read a step before it is needed: it may come from memory

  __device__ Loader(const Work& work, const unsigned char* rows, Shared& sh)
      : place(sh.place[threadIdx.x / 32]), rows((const __half*)rows) {
    if (threadIdx.x % 32 == 0) place.tiles = work.tiles();
    enter(work, blockIdx.x);
  }

  // Issues the copies of the next block, if there is one; in any case closes a group of copies.
  __device__ void load(const Work& work, Shared& sh, int buffer) {
    const bool last = (block + 1) * BLOCK >= place.keys.count();
    if (threadIdx.x == 0) sh.step[buffer] = {place.tile < 0 ? -1 : block == 0, last, place.tile};
    if (place.tile >= 0) {
      const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
      const Key key = place.keys.key(block * BLOCK + row, id);
      const __half* from = rows + size_t(max(key.row, 0)) * DIM + 8 * chunk;
      __half* to = &sh.rows[buffer][row][8 * (chunk ^ row % 8)];
      // A row that nobody sees must be zero, not whatever lies there: its weight is 0, and 0 · NaN is not.
#pragma unroll
      for (int d = 0; d < DIM; d += 64) cp_async_16_or_zero(to + d, from + d, key.row >= 0);
      if (chunk == 0) ((int2*)sh.seen[buffer])[row] = {key.first, key.last};
      ++block;
      if (last) enter(work, place.tile + gridDim.x);
      else fetch();
    }
    cp_async_commit();
  }

 private:
  __device__ void enter(const Work& work, int tile) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      place.tile = tile < place.tiles ? tile : -1;
      if (tile < place.tiles) place.keys = work.keys(work.tile(tile));
    }
    __syncwarp();
    block = 0;
    fetch();
  }
  __device__ void fetch() { id = place.tile < 0 ? -1 : place.keys.id(block * BLOCK + threadIdx.x / 8); }
};

// ---- scores ----

// A maximum has to grow by 2^8 before sums are rescaled for it: weights up to 256 lose nothing in f16, and most blocks
// rescale nothing.
constexpr float SLACK = 8.0f;

// 16 queries of a warp. A lane has two of them, g = lane / 4 and g + 8.
struct Scorer {
  u32 q[DIM / 16][4];  // fragments

  // The state of query(h)'s softmax: x, what weights are relative to, a logarithm to base 2; y, this lane's share of
  // their sum. With the fragments there are no registers left for it.
  __device__ static float2& softmax(Shared& sh, int h, u32 thread) {
    return sh.softmax[h][thread - 32 * VALUE_WARPS];
  }
  __device__ static int query(int h, u32 thread) { return (thread / 32 - VALUE_WARPS) * 16 + thread % 32 / 4 + 8 * h; }

  // Queries that are not there are computed as the tile's first.
  __device__ void enter(const Tile& tile, Shared& sh) {
    const float* row[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = query(h, threadIdx.x);
      const size_t flat = tile.query0 + (i < tile.queries ? i : 0);
      row[h] = tile.q + flat * DIM + threadIdx.x % 4 * 2;
      if (threadIdx.x % 4 == 0) sh.position[i] = tile.position(flat);
      softmax(sh, h, threadIdx.x) = {-3e38f, 0.0f};  // not −inf: a row out of sight must not make −inf − −inf
    }
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 v = *(const float2*)(row[j % 2] + 16 * i + j / 2 * 8);
        q[i][j] = pack_halves(v.x, v.y);
      }
    }
    __syncwarp();
  }

  __device__ void score(Shared& sh, int buffer, int parity, float scale) {
    const u32 thread = computed_here(threadIdx.x), lane = thread % 32, t = lane % 4;
    // Matrices of a fragment load: rows 0–7 with dims 0–7 and 8–15, then rows 8–15.
    const u32 from = (lane % 8 + lane / 16 * 8) * DIM + 8 * (lane / 8 % 2 ^ lane % 8);
    float s[BLOCK / 8][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) {
#pragma unroll
      for (int n = 0; n < BLOCK / 16; ++n) {
        u32 k[4];
        ldmatrix_x4(k, sh.rows[buffer][16 * n] + (from ^ 16 * i));
        const u32 low[2] = {k[0], k[1]}, high[2] = {k[2], k[3]};
        mma_m16n8k16_f16(s[2 * n], q[i], low);
        mma_m16n8k16_f16(s[2 * n + 1], q[i], high);
      }
    }
    const int position[2] = {sh.position[query(0, thread)], sh.position[query(1, thread)]};
    float best[2] = {-3e38f, -3e38f};
#pragma unroll
    for (int n = 0; n < BLOCK / 8; ++n) {
      const int4 seen = sh.seen[buffer][4 * n + t];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        s[n][2 * h] *= scale, s[n][2 * h + 1] *= scale;
        if (position[h] < seen.x || position[h] > seen.y) s[n][2 * h] = minus_infinity();
        if (position[h] < seen.z || position[h] > seen.w) s[n][2 * h + 1] = minus_infinity();
        best[h] = fmaxf(best[h], fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float now = quad_max(best[h]) * LOG2E;
      float top = softmax(sh, h, thread).x, sum = softmax(sh, h, thread).y, factor = 1.0f;
      if (now > top + SLACK) factor = exp2f(top - now), top = now;
      sum *= factor;
      const int i = query(h, thread);
#pragma unroll
      for (int n = 0; n < BLOCK / 8; ++n) {
        const float a = exp2f(fmaf(s[n][2 * h], LOG2E, -top)), b = exp2f(fmaf(s[n][2 * h + 1], LOG2E, -top));
        const u32 pair = pack_halves(a, b);
        const float2 rounded = unpack_halves(pair);
        const int at = 8 * (n ^ i / 2 % 4) + 2 * t;
        *(u32*)&sh.weights[parity][0][i][at] = pair;
        if (PARTS == 2) {
          *(u32*)&sh.weights[parity][PARTS - 1][i][at] = pack_halves(a - rounded.x, b - rounded.y);
          sum += a + b;
        } else {
          // What is divided by must be what was multiplied with: the rounding then cancels where values agree.
          sum += rounded.x + rounded.y;
        }
      }
      softmax(sh, h, thread) = {top, sum};
      if (t == 0) sh.factor[parity][i] = factor;
    }
  }

  // The sink comes last, as a logit without a value. It has no part in the maximum, below which weights might become
  // too small for f16; where it is beyond all measure the denominator is infinite and the output 0, as it should.
  __device__ static void leave(const Tile& tile, Shared& sh, int parity) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = query(h, threadIdx.x);
      const float2 state = softmax(sh, h, threadIdx.x);
      const float sink = tile.sink(tile.query0 + (i < tile.queries ? i : 0));
      const float all = quad_sum(state.y) + exp2f(fmaf(sink, LOG2E, -state.x));
      if (threadIdx.x % 4 == 0) sh.inverse[parity][i] = 1.0f / all;
    }
  }
};

// ---- values ----

// 64 dims of all queries, in a warp: four times 16 queries, eight times 8 dims.
struct Valuer {
  float acc[QUERIES / 16][8][4];

  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < QUERIES / 16; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[m][n][e] = 0.0f;
  }

  __device__ void rescale(const float* factor) {
    const int g = threadIdx.x % 32 / 4;
    bool any = false;
#pragma unroll
    for (int i = 0; i < QUERIES / 8; ++i) any |= factor[8 * i + g] != 1.0f;
    if (!__any_sync(0xffffffffu, any)) return;
#pragma unroll
    for (int m = 0; m < QUERIES / 16; ++m) {
      const float a = factor[16 * m + g], b = factor[16 * m + 8 + g];
#pragma unroll
      for (int n = 0; n < 8; ++n) acc[m][n][0] *= a, acc[m][n][1] *= a, acc[m][n][2] *= b, acc[m][n][3] *= b;
    }
  }

  __device__ void add(const Shared& sh, int buffer, int parity) {
    const u32 thread = computed_here(threadIdx.x), lane = thread % 32, warp = thread / 32;
    // Matrices of a fragment of weights: queries 0–7 and 8–15 with rows 0–7, then with rows 8–15; of values, which are
    // transposed: rows 0–7 and 8–15 with dims 0–7, then with dims 8–15.
    const u32 query = lane % 16, row = lane % 16, half = lane / 16;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
      for (int k = 0; k < BLOCK / 16; ++k) {
        u32 p[QUERIES / 16][4];
#pragma unroll
        for (int m = 0; m < QUERIES / 16; ++m)
          ldmatrix_x4(p[m], &sh.weights[parity][part][16 * m + query][8 * ((2 * k + half) ^ query / 2 % 4)]);
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
          u32 v[4];
          ldmatrix_x4_trans(v, &sh.rows[buffer][16 * k + row][8 * (8 * warp + ((n + half) ^ row % 8))]);
          const u32 low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
#pragma unroll
          for (int m = 0; m < QUERIES / 16; ++m) {
            mma_m16n8k16_f16(acc[m][n], p[m], low);
            mma_m16n8k16_f16(acc[m][n + 1], p[m], high);
          }
        }
      }
    }
  }

  __device__ void store(const Tile& tile, const float* inverse) const {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 64 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < QUERIES / 8; ++i) {
      const int query = 8 * i + lane / 4;
      if (query >= tile.queries) break;
      float* out = tile.o + (tile.query0 + query) * DIM + first;
      const float f = inverse[query];
#pragma unroll
      for (int n = 0; n < 8; ++n)
        *(float2*)(out + 8 * n) = {acc[i / 2][n][i % 2 * 2] * f, acc[i / 2][n][i % 2 * 2 + 1] * f};
    }
  }
};

// Blocks of THREADS threads, any number of them; `rows` is what rows_to_f16() wrote.
template <class Work>
__device__ inline void attend(const Work& work, const unsigned char* rows, float scale) {
  if (blockIdx.x >= work.tiles()) return;
  DYN_SHARED(Shared, shared);
  Shared& sh = shared[0];
  if (threadIdx.x < 32 * VALUE_WARPS) {
    Loader<Work> loader(work, rows, sh);
    Valuer valuer;
    for (u32 loaded = 0;; ++loaded) {
      loader.load(work, sh, loaded % BUFFERS);  // over what was used up a step ago
      if (loaded >= BUFFERS - 1) {
        const u32 i = loaded - (BUFFERS - 1);
        const Step& step = sh.step[i % BUFFERS];
        if (step.first < 0) break;
        if (step.first) valuer.clear();
        else valuer.rescale(sh.factor[i % 2]);
        valuer.add(sh, i % BUFFERS, i % 2);
        if (step.last) valuer.store(work.tile(step.tile), sh.inverse[i % 2]);
      }
      cp_async_wait<1>();  // all but the newest block
      step_ends();
    }
    cp_async_wait<0>();
  } else {
    Scorer scorer;
    step_ends();
    step_ends();
    for (u32 i = 0;; ++i) {
      const Step& step = sh.step[i % BUFFERS];
      if (step.first < 0) break;
      if (step.first) scorer.enter(work.tile(step.tile), sh);
      scorer.score(sh, i % BUFFERS, i % 2, scale);
      if (step.last) scorer.leave(work.tile(step.tile), sh, i % 2);
      step_ends();
    }
    step_ends();
  }
}

}  // namespace mma
}  // namespace attention
