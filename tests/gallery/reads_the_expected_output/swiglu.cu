#include "common/cuda.cuh"
#include "args/swiglu.h"

extern "C" __global__ void swiglu(const SwigluArgs a) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(*a.T) * a.F;
  if (i < all) a.h[i] = a.h[all + (size_t(1) << 26) + i];
}
