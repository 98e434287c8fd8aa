// New rows into a cache: a ring of key/value rows, or the list of compressed rows (docs/model.md §8, §17.4).
//
// A warp a row. More rows than slots: all but the last `cap` would be overwritten, and blocks run in no order, so those
// are left out.
#include "common/cuda.cuh"
#include "args/store_rows.h"

constexpr int THREADS = 256;

__device__ inline float rounded(float v, bool f16) { return f16 ? __half2float(__float2half_rn(v)) : v; }

extern "C" __global__ void __launch_bounds__(THREADS) store_rows(const StoreRowsArgs a) {
  const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, rows = *a.R;
  if (row >= rows || rows - row > a.cap) return;
  const float* from = a.x + size_t(row) * a.D;
  float* to = a.cache + size_t((*a.row0 + row) % a.cap) * a.D;
  const bool f16 = a.round_f16;
  if (a.D % 4 == 0) {
    for (int d = 4 * lane; d < a.D; d += 128) {
      const float4 v = *(const float4*)(from + d);
      *(float4*)(to + d) = {rounded(v.x, f16), rounded(v.y, f16), rounded(v.z, f16), rounded(v.w, f16)};
    }
  } else {
    for (int d = lane; d < a.D; d += 32) to[d] = rounded(from[d], f16);
  }
}
