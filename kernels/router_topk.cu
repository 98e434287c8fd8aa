// The experts of highest score, best first, of equals the lower (docs/model.md §13). Keys stand in shared memory, each
// lane's in its own places, and the best of all is taken out as often as experts are used.
#include "common/router.cuh"
#include "args/router_topk.h"

constexpr int THREADS = 128;

// Order of scores as unsigned integers, −0 with +0. Never 0: that marks what is taken, whatever a broken router wrote.
__device__ inline u32 key_of(float score) {
  const u32 bits = __float_as_uint(score), sign = 0x80000000u;
  return max(bits == sign ? sign : bits & sign ? ~bits : bits | sign, 1u);
}

// Few tokens, a block each: all threads make keys, which is most of the work, and one warp chooses.
constexpr int FEW_THREADS = 256;

extern "C" __global__ void __launch_bounds__(FEW_THREADS) router_topk_few(const RouterTopkArgs a) {
  const int token = blockIdx.x, lane = threadIdx.x;
  if (token >= *a.T) return;
  DYN_SHARED(u32, key);  // [E]
  float* score = (float*)(key + a.E);
  int* chosen = (int*)(score + a.E);  // [U]
  const float* logits = a.logits + size_t(token) * a.E;
  const float* bias = (const float*)a.bias;
  for (int e = threadIdx.x; e < a.E; e += FEW_THREADS) {
    score[e] = router::score(logits[e]);
    key[e] = key_of(score[e] + (bias ? bias[e] : 0.0f));
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;

  // What the lane would offer, made anew only when it was taken.
  u32 best = 0;
  int at = 0x7fffffff;
  const auto offer = [&] {
    best = 0;
    at = 0x7fffffff;
    for (int e = lane; e < a.E; e += 32) {
      if (key[e] > best) best = key[e], at = e;
    }
  };
  offer();
  for (int i = 0; i < a.U; ++i) {
    const u32 top = __reduce_max_sync(0xffffffffu, best);
    const int expert = __reduce_min_sync(0xffffffffu, best == top ? at : 0x7fffffff);
    if (at == expert) {
      chosen[i] = expert;
      a.sel[size_t(token) * a.U + i] = expert;
      key[expert] = 0;
      offer();
    }
  }
  __syncwarp();
  router::weigh([&](int i) { return score[chosen[i]]; }, a.w + size_t(token) * a.U, a.U, a.scale, a.floor,
                a.normalise);
}

// Many tokens, a warp each.
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
