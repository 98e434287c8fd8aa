// Experts of a token by its id, weighted by the learned scores (docs/model.md §13). A warp a token.
#include "common/router.cuh"
#include "args/router_hash.h"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS) router_hash(const RouterHashArgs a) {
  const int token = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= *a.T) return;
  // An id outside the table is row 0, an entry outside the experts expert 0: neither may make a read go wild.
  const int id = a.ids[token], row = id >= 0 && id < a.V ? id : 0;
  const int* table = (const int*)a.table + size_t(row) * a.U;
  int* sel = a.sel + size_t(token) * a.U;
  for (int i = lane; i < a.U; i += 32) sel[i] = table[i] >= 0 && table[i] < a.E ? table[i] : 0;
  __syncwarp();
  router::weigh(a.logits + size_t(token) * a.E, sel, a.w + size_t(token) * a.U, a.U, a.scale, a.floor, a.normalise);
}
