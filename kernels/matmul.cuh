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

// One token, quantised rows. Block (b, t, g): its share of the rows, for token t. Rows of half a slice go in pairs, so
// that no lane idles.
template <bool PAIR>
struct ProductRows {
  static constexpr int slots = 1, kOfRow = PAIR ? 2 : 1, kAtOnce = kOfRow;
  static constexpr bool kPair = PAIR, kOneVector = true, kVectorFirst = true;
  const float* vector;
  float* y;
  const u8* w;
  int row_bytes, k, first, end;
  bool even;
  int token, tokens;

  __device__ const float* x(int) const { return vector; }
  __device__ const u8* weights(int) const { return w; }
  __device__ const u8* row(const u8* w, int r) const { return w + static_cast<long long>(r) * row_bytes; }
  __device__ void store(int r, const float (&total)[kOfRow]) const {
    if (token >= tokens) return;
#pragma unroll
    for (int i = 0; i < kOfRow; ++i) y[kOfRow * r + i] = total[i];
  }
};

// A step may have no token. That is asked for at the end, so that nothing waits for the answer.
template <class W, class L, int WARPS, bool PAIR>
__device__ inline void matmul_stream_rows(const Product& p) {
  constexpr int kOfRow = PAIR ? 2 : 1;
  const int token = blockIdx.y, group = blockIdx.z, n = p.n / kOfRow, k = p.k * kOfRow;
  const int rows = (n + gridDim.x - 1) / gridDim.x, first = blockIdx.x * rows;
  const long long at = static_cast<long long>(token) * p.groups + group;
  const u8* w = weight_row<W>(p.w, static_cast<long long>(group) * p.n, p.k);
  const int row_bytes = k / W::kElems * W::kBytes;
  RowStream<L, WARPS, kStreamSlices>::run(
      ProductRows<PAIR>{p.x + at * p.k, p.y + at * p.n, w, row_bytes, k, first, min(first + rows, n),
                        row_bytes % 16 == 0 && aligned16(w), token, p.tokens});
}

template <class W, class L, int WARPS = kStreamWarps>
__device__ inline void matmul_stream(const Product& p) {
  if (L::kRows == 1 && p.k == kSlice / 2 && p.n % 2 == 0) {
    matmul_stream_rows<W, L, WARPS, true>(p);
  } else {
    matmul_stream_rows<W, L, WARPS, false>(p);
  }
}

// One token, rows of plain numbers. Block (b, t, g): every gridDim.x-th few of the rows, for token t.
template <class W>
__device__ inline void matmul_plain(const Product& p) {
  const int token = blockIdx.y, group = blockIdx.z;
  const long long at = static_cast<long long>(token) * p.groups + group;
  const u8* w = weight_row<W>(p.w, static_cast<long long>(group) * p.n, p.k);
  plain_rows<W>(p.y + at * p.n, w, p.x + at * p.k, p.k, p.n, token < p.tokens);
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
