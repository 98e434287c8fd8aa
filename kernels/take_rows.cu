// The last R of T rows (docs/model.md §14). blockIdx.x counts rows, blockIdx.y pieces of a row.
#include "common/cuda.cuh"
#include "args/take_rows.h"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) take_rows(const TakeRowsArgs a) {
  const int row = blockIdx.x, rows = *a.R, d = 4 * (blockIdx.y * THREADS + threadIdx.x);
  if (row >= rows || d >= a.D) return;
  const float* from = a.x + size_t(*a.T - rows + row) * a.D + d;
  float* to = a.y + size_t(row) * a.D + d;
  if (a.D % 4 == 0) {
    *(float4*)to = *(const float4*)from;
  } else {
    for (int i = 0; i < min(4, a.D - d); ++i) to[i] = from[i];
  }
}
