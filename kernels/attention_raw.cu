// Attention of each token over its window (docs/model.md §12, ratio 0). A tile is QUERIES neighbouring (token, head)
// pairs. Two layers of a model have this op and a window is eight tiles of rows: not worth splitting for few tokens.
#include "common/attention.cuh"
#include "args/attention_raw.h"

extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) attention_raw(const AttentionRawArgs a) {
  const size_t query0 = size_t(blockIdx.x) * attention::QUERIES, all = size_t(*a.T) * a.H;
  if (query0 >= all || a.D > attention::DIM) return;
  const int queries = int(min(all - query0, size_t(attention::QUERIES))), pos0 = *a.pos0;
  const int from = pos0 + int(query0 / a.H), to = pos0 + int((query0 + queries - 1) / a.H);
  attention::attend_all(attention::window_keys(a.ring, a.D, a.cap, a.window, from, to),
                        {a.q, a.o, (const float*)a.sinks, a.H, a.scale, pos0, query0, queries});
}
