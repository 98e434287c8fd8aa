// Which (token, slot) pairs go to which expert, for the routed experts of many tokens: pairs of one expert are computed
// together, kTileTokens at a time, so that an expert's weights are read once per tile and not once per pair.
#pragma once
#include "common/cuda.cuh"

// Most pairs of one expert that are computed together.
constexpr int kTileTokens = 64;
constexpr int kSortThreads = 1024;

// Lists in the scratch, in ints. A pair is its index token · used + slot. A manifest reserves
//   4·(4 + 2·E + T·U + 3·(ceil_div(T·U, 64) + E)) bytes
// since all experts but E round up to whole tiles once.
struct ExpertLists {
  int* tiles;   // how many tiles there are; three unused
  int* counts;  // [experts]
  int* starts;  // [experts]: expert's first place in `order`
  int* order;   // [pairs], by expert
  int* tile;    // [tiles][3]: expert, first place in `order`, number of pairs

  __device__ ExpertLists(unsigned char* scratch, int experts, int pairs) {
    tiles = reinterpret_cast<int*>(scratch);
    counts = tiles + 4;
    starts = counts + experts;
    order = starts + experts;
    tile = order + pairs;
  }
};

// Builds the lists, by one block. Pairs of an expert come in whatever order the atomics give: each is computed on its
// own, so results do not depend on it. An id that names no expert is left out.
__device__ inline void sort_by_expert(const int* sel, int pairs, int experts, const ExpertLists& lists) {
  __shared__ int sums[2][kSortThreads];
  const int tid = threadIdx.x;
  for (int e = tid; e < experts; e += kSortThreads) lists.counts[e] = 0;
  __syncthreads();
  for (int pair = tid; pair < pairs; pair += kSortThreads) {
    const int e = sel[pair];
    if (e >= 0 && e < experts) atomicAdd(&lists.counts[e], 1);
  }
  __syncthreads();
  // Each thread sums a run of experts; then all runs are scanned, pairs and tiles together.
  const int run = (experts + kSortThreads - 1) / kSortThreads;
  const int first = min(tid * run, experts), last = min(first + run, experts);
  int pairs_here = 0, tiles_here = 0;
  for (int e = first; e < last; ++e) {
    pairs_here += lists.counts[e];
    tiles_here += (lists.counts[e] + kTileTokens - 1) / kTileTokens;
  }
  int pairs_to = pairs_here, tiles_to = tiles_here;
  for (int step = 1; step < kSortThreads; step <<= 1) {
    sums[0][tid] = pairs_to;
    sums[1][tid] = tiles_to;
    __syncthreads();
    if (tid >= step) {
      pairs_to += sums[0][tid - step];
      tiles_to += sums[1][tid - step];
    }
    __syncthreads();
  }
  int place = pairs_to - pairs_here, number = tiles_to - tiles_here;
  for (int e = first; e < last; ++e) {
    const int count = lists.counts[e];
    lists.starts[e] = place;
    for (int done = 0; done < count; done += kTileTokens, ++number) {
      lists.tile[3 * number] = e;
      lists.tile[3 * number + 1] = place + done;
      lists.tile[3 * number + 2] = min(kTileTokens, count - done);
    }
    place += count;
  }
  if (tid == kSortThreads - 1) *lists.tiles = tiles_to;
  __syncthreads();
  // Places are handed out from the back of each expert's run, which leaves `counts` at zero.
  for (int pair = tid; pair < pairs; pair += kSortThreads) {
    const int e = sel[pair];
    if (e >= 0 && e < experts) lists.order[lists.starts[e] + atomicSub(&lists.counts[e], 1) - 1] = pair;
  }
}
