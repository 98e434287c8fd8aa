// Attention of each token over its window and the compressed rows that the indexer chose for it (docs/model.md §11,
// §12). Every token has its own list, so a tile is up to QUERIES heads of one token.
#include "common/attention.cuh"
#include "args/attention_indexed.h"

// The tile of the heads from `head` on; no queries behind the step's last token.
__device__ inline attention::Tile tile_at(const AttentionIndexedArgs& a, int token, int head) {
  const int queries = token < *a.T && a.D <= attention::DIM ? min(a.H - head, attention::QUERIES) : 0;
  return {a.q, a.o, (const float*)a.sinks, a.H, a.scale, *a.pos0, size_t(token) * a.H + head, queries};
}

__device__ inline attention::Keys keys_of(const AttentionIndexedArgs& a, int token) {
  const int position = *a.pos0 + token;
  attention::Keys keys = attention::window_keys(a.ring, a.D, a.cap, a.window, position, position);
  keys.comp = a.comp;
  keys.ids = a.ids + size_t(token) * a.k;
  keys.ratio = a.ratio;
  keys.n_comp = a.k;
  keys.visible = min((position + 1) / a.ratio, a.C);
  return keys;
}

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_indexed(const AttentionIndexedArgs a) {
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y * attention::QUERIES);
  if (tile.queries > 0) attention::attend_all(keys_of(a, blockIdx.x), tile);
}

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2)
    attention_indexed_split(const AttentionIndexedArgs a) {
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y * attention::QUERIES);
  if (tile.queries > 0) attention::attend_split(keys_of(a, blockIdx.x), tile, blockIdx.z, a.scratch);
}

extern "C" __global__ void __launch_bounds__(attention::MERGERS) attention_indexed_merge(const AttentionIndexedArgs a) {
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y);
  if (tile.queries > 0) attention::merge(keys_of(a, blockIdx.x), tile, tile.query0, a.scratch);
}
