// Attention of each token over its window (docs/model.md §12, ratio 0). A tile is QUERIES neighbouring (token, head)
// pairs. Two layers of a model have this op and a window is eight tiles of rows: not worth splitting for few tokens.
#include "common/attention.cuh"
#include "common/attention_few.cuh"
#include "common/attention_mma.cuh"
#include "args/attention_raw.h"

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_raw(const AttentionRawArgs a) {
  const attention::Tile tile = attention::flat_tile(a, size_t(blockIdx.x) * attention::QUERIES, attention::QUERIES);
  if (tile.queries > 0) attention::attend_all(attention::flat_window(a, tile), tile);
}

// Few tokens, in f16.
extern "C" __global__ void __launch_bounds__(attention::few::THREADS, 1) attention_raw_few(const AttentionRawArgs a) {
  constexpr int QUERIES = attention::few::QUERIES;
  const attention::Tile tile = attention::flat_tile(a, size_t(blockIdx.x) * QUERIES, QUERIES);
  if (tile.queries > 0) attention::few::attend_all(attention::flat_window(a, tile), tile);
}

// Many tokens, in f16.
extern "C" __global__ void __launch_bounds__(attention::mma::COPIERS) attention_raw_rows(const AttentionRawArgs a) {
  attention::mma::rows_to_f16(a, a.ring, 0);
}

struct Work {
  const AttentionRawArgs& a;
  __device__ int tiles() const { return attention::mma::flat_tiles(a); }
  __device__ attention::Tile tile(int i) const { return attention::mma::flat_tile(a, i); }
  __device__ attention::Keys keys(const attention::Tile& tile) const { return attention::flat_window(a, tile); }
};

extern "C" __global__ void __launch_bounds__(attention::mma::THREADS, 1) attention_raw_mma(const AttentionRawArgs a) {
  attention::mma::attend(Work{a}, a.scratch, a.scale);
}
