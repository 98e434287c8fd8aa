// Attention of each token over its window and every compressed row it may see (docs/model.md §12).
//
// A tile is neighbouring (token, head) pairs, whatever the number of heads: of 32, half a token's with 64 heads, eight
// tokens' with 4. It walks the rows that its last token sees; each query leaves out what is not yet its own.
#include "common/attention.cuh"
#include "common/attention_few.cuh"
#include "common/attention_mma.cuh"
#include "args/attention_mixed.h"

__device__ inline attention::Keys keys_of(const AttentionMixedArgs& a, const attention::Tile& tile) {
  const int to = tile.position(tile.query0 + tile.queries - 1);
  attention::Keys keys = attention::flat_window(a, tile);
  keys.comp = a.comp;
  keys.ratio = a.ratio;
  keys.visible = keys.n_comp = min((to + 1) / a.ratio, a.C);
  return keys;
}

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_mixed(const AttentionMixedArgs a) {
  const attention::Tile tile = attention::flat_tile(a, size_t(blockIdx.x) * attention::QUERIES, attention::QUERIES);
  if (tile.queries > 0) attention::attend_all(keys_of(a, tile), tile);
}

// Few tokens.
extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_mixed_split(const AttentionMixedArgs a) {
  const attention::Tile tile = attention::flat_tile(a, size_t(blockIdx.x) * attention::QUERIES, attention::QUERIES);
  if (tile.queries > 0) attention::attend_split(keys_of(a, tile), tile, blockIdx.y, a.scratch);
}

// A query's parts are its tile's: how many rows a split has follows from the rows that the tile's last query sees.
__device__ inline void merge(const AttentionMixedArgs& a, int queries) {
  const size_t query = blockIdx.x;
  const attention::Tile tile = attention::flat_tile(a, query / queries * queries, queries);
  if (query < tile.query0 + tile.queries) attention::merge(keys_of(a, tile), tile, query, a.scratch);
}

extern "C" __global__ void __launch_bounds__(attention::MERGERS) attention_mixed_merge(const AttentionMixedArgs a) {
  merge(a, attention::QUERIES);
}

// The same in f16.
extern "C" __global__ void __launch_bounds__(attention::few::THREADS, 1) attention_mixed_few(const AttentionMixedArgs a) {
  constexpr int QUERIES = attention::few::QUERIES;
  const attention::Tile tile = attention::flat_tile(a, size_t(blockIdx.x) * QUERIES, QUERIES);
  if (tile.queries > 0) attention::few::attend_split(keys_of(a, tile), tile, blockIdx.y, a.scratch);
}

extern "C" __global__ void __launch_bounds__(attention::MERGERS) attention_mixed_few_merge(const AttentionMixedArgs a) {
  merge(a, attention::few::QUERIES);
}

// Many tokens, in f16.
extern "C" __global__ void __launch_bounds__(attention::mma::COPIERS) attention_mixed_rows(const AttentionMixedArgs a) {
  attention::mma::rows_to_f16(a, a.comp, min((*a.pos0 + *a.T) / a.ratio, a.C));
}

struct Work {
  const AttentionMixedArgs& a;
  __device__ int tiles() const { return attention::mma::flat_tiles(a); }
  __device__ attention::Tile tile(int i) const { return attention::mma::flat_tile(a, i); }
  __device__ attention::Keys keys(const attention::Tile& tile) const { return keys_of(a, tile); }
};

extern "C" __global__ void __launch_bounds__(attention::mma::THREADS, 1)
    attention_mixed_mma(const AttentionMixedArgs a) {
  attention::mma::attend(Work{a}, a.scratch, a.scale);
}
