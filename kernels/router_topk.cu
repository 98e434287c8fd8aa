// The experts of highest score, best first, of equals the lower (docs/model.md §13). A warp a token: keys stand in
// shared memory, each lane's in its own places, and the best of all is taken out as often as experts are used.
#include "common/router.cuh"
#include "args/router_topk.h"

constexpr int THREADS = 128;

// Order of scores as unsigned integers, −0 with +0. Never 0: that marks what is taken, whatever a broken router wrote.
__device__ inline u32 key_of(float score) {
  const u32 bits = __float_as_uint(score), sign = 0x80000000u;
  return max(bits == sign ? sign : bits & sign ? ~bits : bits | sign, 1u);
}

extern "C" __global__ void __launch_bounds__(THREADS) router_topk(const RouterTopkArgs a) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x * (THREADS / 32) + warp;
  if (token >= *a.T) return;
  DYN_SHARED(u32, keys);  // [warps][E]
  u32* key = keys + warp * a.E;
  const float* logits = a.logits + size_t(token) * a.E;
  const float* bias = (const float*)a.bias;
  int* sel = a.sel + size_t(token) * a.U;
  for (int e = lane; e < a.E; e += 32) key[e] = key_of(router::score(logits[e]) + (bias ? bias[e] : 0.0f));

  for (int i = 0; i < a.U; ++i) {
    u32 best = 0;
    int at = 0x7fffffff;
    for (int e = lane; e < a.E; e += 32)
      if (key[e] > best) best = key[e], at = e;
    for (int d = 16; d > 0; d /= 2) {
      const u32 other = __shfl_xor_sync(0xffffffffu, best, d);
      const int other_at = __shfl_xor_sync(0xffffffffu, at, d);
      if (other > best || (other == best && other_at < at)) best = other, at = other_at;
    }
    if (at % 32 == lane) key[at] = 0, sel[i] = at;  // the lane that owns the key; others never look at it
  }
  __syncwarp();
  router::weigh(logits, sel, a.w + size_t(token) * a.U, a.U, a.scale, a.floor, a.normalise);
}
