// The matmul kernels' bodies for few tokens, for every weight format: y[t, n] = Σ_k w[n][k] · x[t, k] (docs/model.md §2.4).
//
// `groups` > 1 is matmul_grouped (docs/model.md §12): group g has rows g·N of the weights and its own K of x's.
#pragma once
#include "quant/matvec.cuh"
#include "quant/plain_rows.cuh"
#include "quant/stream.cuh"

constexpr int kStreamWarps = 8, kStreamSlices = 4;

struct Product {
  const float* x;
  float* y;
  const void* w;
  int tokens, groups, k, n;
};

// One token, quantised rows. Block (b, t, g): its share of the rows, for token t.
struct ProductRows {
  static constexpr int slots = 1, kAtOnce = 1;
  const float* vector;
  float* y;
  const u8* w;
  int row_bytes, k, first, end;
  bool even;

  __device__ const float* x(int) const { return vector; }
  __device__ const u8* weights(int) const { return w; }
  __device__ const u8* row(const u8* w, int r) const { return w + static_cast<long long>(r) * row_bytes; }
  __device__ void store(int r, const float (&total)[1]) const { y[r] = total[0]; }
};

template <class W, class L>
__device__ inline void matmul_stream(const Product& p) {
  const int token = blockIdx.y, group = blockIdx.z;
  if (token >= p.tokens) return;
  const int rows = (p.n + gridDim.x - 1) / gridDim.x, first = blockIdx.x * rows;
  const long long at = static_cast<long long>(token) * p.groups + group;
  const u8* w = weight_row<W>(p.w, static_cast<long long>(group) * p.n, p.k);
  const int row_bytes = p.k / W::kElems * W::kBytes;
  RowStream<L, kStreamWarps, kStreamSlices>::run(
      ProductRows{p.x + at * p.k, p.y + at * p.n, w, row_bytes, p.k, first, min(first + rows, p.n),
                  row_bytes % 16 == 0 && aligned16(w)});
}

// One token, rows of plain numbers. Block (b, t, g): every gridDim.x-th few of the rows, for token t.
template <class W>
__device__ inline void matmul_plain(const Product& p) {
  const int token = blockIdx.y, group = blockIdx.z;
  if (token >= p.tokens) return;
  const long long at = static_cast<long long>(token) * p.groups + group;
  const u8* w = weight_row<W>(p.w, static_cast<long long>(group) * p.n, p.k);
  plain_rows<W>(p.y + at * p.n, w, p.x + at * p.k, p.k, p.n);
}

// Few tokens. Block (b, t, g): rows 4b .. 4b + 4 for TOKENS tokens from t·TOKENS.
template <class W, int TOKENS>
__device__ inline void matmul_few(const Product& p) {
  constexpr int kRows = 4;
  const int row0 = blockIdx.x * kRows, token0 = blockIdx.y * TOKENS, group = blockIdx.z;
  if (token0 >= p.tokens) return;
  const u8* w[kRows];
  const float* x[TOKENS];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // Past the last row the last one is computed again, and not written.
    w[r] = weight_row<W>(p.w, static_cast<long long>(group) * p.n + min(row0 + r, p.n - 1), p.k);
  }
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    const long long at = static_cast<long long>(token0 + t) * p.groups + group;
    x[t] = token0 + t < p.tokens ? p.x + at * p.k : nullptr;
  }
  float acc[kRows][TOKENS] = {};
  matvec<W>(acc, w, x, p.k);
  const float total = matvec_total(acc);
  const int row = row0 + threadIdx.x / TOKENS, token = token0 + threadIdx.x % TOKENS;
  if (threadIdx.x < kRows * TOKENS && row < p.n && token < p.tokens) {
    p.y[(static_cast<long long>(token) * p.groups + group) * p.n + row] = total;
  }
}
