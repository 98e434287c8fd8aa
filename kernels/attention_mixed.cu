// Attention of each token over its window and every compressed row it may see (docs/model.md §12).
//
// A tile is QUERIES neighbouring (token, head) pairs, whatever the number of heads: half a token's with 64 heads,
// eight tokens' with 4. It walks the rows that its last token sees; each query leaves out what is not yet its own.
#include "common/attention.cuh"
#include "args/attention_mixed.h"

// The tile that starts at flat query `query0`; it has no queries behind the step's last.
__device__ inline attention::Tile tile_at(const AttentionMixedArgs& a, size_t query0) {
  const size_t all = a.D > attention::DIM ? 0 : size_t(*a.T) * a.H;
  const int queries = query0 < all ? int(min(all - query0, size_t(attention::QUERIES))) : 0;
  return {a.q, a.o, (const float*)a.sinks, a.H, a.scale, *a.pos0, query0, queries};
}

__device__ inline attention::Keys keys_of(const AttentionMixedArgs& a, const attention::Tile& tile) {
  const int from = tile.pos0 + int(tile.query0 / a.H), to = tile.pos0 + int((tile.query0 + tile.queries - 1) / a.H);
  attention::Keys keys = attention::window_keys(a.ring, a.D, a.cap, a.window, from, to);
  keys.comp = a.comp;
  keys.ratio = a.ratio;
  keys.visible = keys.n_comp = min((to + 1) / a.ratio, a.C);
  return keys;
}

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_mixed(const AttentionMixedArgs a) {
  const attention::Tile tile = tile_at(a, size_t(blockIdx.x) * attention::QUERIES);
  if (tile.queries > 0) attention::attend_all(keys_of(a, tile), tile);
}

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_mixed_split(const AttentionMixedArgs a) {
  const attention::Tile tile = tile_at(a, size_t(blockIdx.x) * attention::QUERIES);
  if (tile.queries > 0) attention::attend_split(keys_of(a, tile), tile, blockIdx.y, a.scratch);
}

extern "C" __global__ void __launch_bounds__(attention::MERGERS) attention_mixed_merge(const AttentionMixedArgs a) {
  const size_t query = blockIdx.x;
  const attention::Tile tile = tile_at(a, query / attention::QUERIES * attention::QUERIES);
  if (query < tile.query0 + tile.queries) attention::merge(keys_of(a, tile), tile, query, a.scratch);
}
