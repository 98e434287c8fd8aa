// Attention of each token over its window and the compressed rows that the indexer chose for it (docs/model.md §11,
// §12). Every token has its own list, so a tile is heads of one token.
#include "common/attention.cuh"
#include "common/attention_few.cuh"
#include "common/attention_mma.cuh"
#include "args/attention_indexed.h"

// The tile of up to `most` heads from `head` on; no queries behind the step's last token.
__device__ inline attention::Tile tile_at(const AttentionIndexedArgs& a, int token, int head, int most) {
  const int queries = token < *a.T && a.D <= attention::DIM ? min(a.H - head, most) : 0;
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
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y * attention::QUERIES, attention::QUERIES);
  if (tile.queries > 0) attention::attend_all(keys_of(a, blockIdx.x), tile);
}

// Few tokens.
extern "C" __global__ void __launch_bounds__(attention::THREADS, 2)
    attention_indexed_split(const AttentionIndexedArgs a) {
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y * attention::QUERIES, attention::QUERIES);
  if (tile.queries > 0) attention::attend_split(keys_of(a, blockIdx.x), tile, blockIdx.z, a.scratch);
}

extern "C" __global__ void __launch_bounds__(attention::MERGERS) attention_indexed_merge(const AttentionIndexedArgs a) {
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y, 1);
  if (tile.queries > 0) attention::merge(keys_of(a, blockIdx.x), tile, tile.query0, a.scratch);
}

// The same in f16; merged as the others.
extern "C" __global__ void __launch_bounds__(attention::few::THREADS, 1)
    attention_indexed_few(const AttentionIndexedArgs a) {
  constexpr int QUERIES = attention::few::QUERIES;
  const attention::Tile tile = tile_at(a, blockIdx.x, blockIdx.y * QUERIES, QUERIES);
  if (tile.queries > 0) attention::few::attend_split(keys_of(a, blockIdx.x), tile, blockIdx.z, a.scratch);
}

// Many tokens, in f16.
extern "C" __global__ void __launch_bounds__(attention::mma::COPIERS)
    attention_indexed_rows(const AttentionIndexedArgs a) {
  attention::mma::rows_to_f16(a, a.comp, min((*a.pos0 + *a.T) / a.ratio, a.C));
}

// Every token's first heads, then, if there are more than a tile has room for, every token's next ones.
struct Work {
  const AttentionIndexedArgs& a;
  __device__ int tiles() const {
    return a.D == attention::DIM ? (a.H + attention::mma::QUERIES - 1) / attention::mma::QUERIES * *a.T : 0;
  }
  __device__ attention::Tile tile(int i) const {
    return tile_at(a, i % *a.T, i / *a.T * attention::mma::QUERIES, attention::mma::QUERIES);
  }
  __device__ attention::Keys keys(const attention::Tile& tile) const {
    return keys_of(a, tile.position(tile.query0) - tile.pos0);
  }
};

extern "C" __global__ void __launch_bounds__(attention::mma::THREADS, 1)
    attention_indexed_mma(const AttentionIndexedArgs a) {
  attention::mma::attend(Work{a}, a.scratch, a.scale);
}
