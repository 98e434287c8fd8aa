// The k best rows of each token, ascending; of equal scores the lower row (docs/model.md §11).
//
// One block a token. Radix select over order-preserving keys, 11 + 11 + 10 bits: a histogram of the digit among the
// keys that share the digits found so far, then the bin in which the k-th key lies. Then the rows above the threshold
// and the first of those at it are written in row order: every warp has one stretch of rows and counts them first.
// Nothing is kept but histograms, so the number of rows has no limit.
#include "common/cuda.cuh"
#include "args/indexer_topk.h"

constexpr int BINS = 2048;

// Order of scores as unsigned integers. −0 counts as +0: they are equal scores, so the lower row must win.
__device__ inline u32 key_of(float score) {
  const u32 bits = __float_as_uint(score), sign = 0x80000000u;
  return bits == sign ? sign : bits & sign ? ~bits : bits | sign;
}

// Sum of v over the threads before this one.
template <int THREADS>
__device__ inline u64 sum_before(u64 v) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u64 here = v;
  for (int d = 1; d < 32; d *= 2) {
    const u64 other = __shfl_up_sync(0xffffffffu, here, d);
    if (lane >= d) here += other;
  }
  __shared__ u64 sums[THREADS / 32];
  if (lane == 31) sums[warp] = here;
  __syncthreads();
  u64 before = 0;
  for (int w = 0; w < warp; ++w) before += sums[w];
  return before + here - v;
}

template <int THREADS>
__device__ inline void select(const IndexerTopkArgs& a) {
  const int token = blockIdx.x;
  if (token >= *a.T) return;
  const int n = min((*a.pos0 + token + 1) / 4, a.C);
  const float* s = a.s + size_t(token) * a.C;
  int* ids = a.ids + size_t(token) * a.k;
  if (n <= a.k) {
    for (int i = threadIdx.x; i < a.k; i += THREADS) ids[i] = i < n ? i : -1;
    return;
  }

  __shared__ int count[BINS];
  __shared__ int found_bin, found_above;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u32 threshold = 0;  // the digits found so far, the rest zero
  int wanted = a.k;   // how many of the keys that share them are among the k best
  for (int high = 32, shift = 21; high > 0; high = shift, shift = shift > 10 ? 10 : 0) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) count[i] = 0;
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += THREADS) {
      const u32 rest = key_of(s[i]) ^ threshold;
      if (u64(rest) >> high == 0) atomicAdd(&count[rest >> shift], 1);
    }
    __syncthreads();
    // Thread 0 takes the highest bins, so that a sum over the threads before is a count of greater keys.
    constexpr int EACH = BINS / THREADS;
    const int last = BINS - 1 - int(threadIdx.x) * EACH;
    int mine = 0;
    for (int i = 0; i < EACH; ++i) mine += count[last - i];
    int above = int(sum_before<THREADS>(mine));
    if (above < wanted && wanted <= above + mine) {
      int bin = last;
      while (above + count[bin] < wanted) above += count[bin--];
      found_bin = bin, found_above = above;
    }
    __syncthreads();
    threshold |= u32(found_bin) << shift;
    wanted -= found_above;
  }

  // Keys above the threshold are all chosen, of those at it the first `wanted`.
  constexpr int WARPS = THREADS / 32;
  const int stretch = (n + WARPS - 1) / WARPS, from = warp * stretch, to = min(from + stretch, n);
  u64 counted = 0;  // greater keys above 32 bits of equal ones
#pragma unroll 8
  for (int i = from + lane; i < to; i += 32) {
    const u32 key = key_of(s[i]);
    counted += key > threshold ? u64(1) << 32 : key == threshold;
  }
  const u64 before = __shfl_sync(0xffffffffu, sum_before<THREADS>(counted), 0);
  int equals = int(before & 0xffffffffu), rank = int(before >> 32) + min(equals, wanted);
  const u32 below_lane = (1u << lane) - 1;
  for (int base = from; base < to; base += 32) {
    const u32 key = base + lane < to ? key_of(s[base + lane]) : 0;
    const bool at = base + lane < to && key == threshold;
    const u32 tied = __ballot_sync(0xffffffffu, at);
    const bool chosen = (base + lane < to && key > threshold) || (at && equals + __popc(tied & below_lane) < wanted);
    const u32 taken = __ballot_sync(0xffffffffu, chosen);
    if (chosen) ids[rank + __popc(taken & below_lane)] = base + lane;
    rank += __popc(taken), equals += __popc(tied);
  }
}

extern "C" __global__ void __launch_bounds__(256, 4) indexer_topk(const IndexerTopkArgs a) { select<256>(a); }

// For few tokens: the blocks are too few to fill the device, so each is as large as can be.
extern "C" __global__ void __launch_bounds__(1024) indexer_topk_few(const IndexerTopkArgs a) { select<1024>(a); }
