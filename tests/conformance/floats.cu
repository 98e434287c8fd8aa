// f32 arithmetic (4 results a pair, exactly rounded) and functions (8, within a few ulps) of pairs (x, y).
#include "common/cuda.cuh"

struct Args {
  const void* in;
  void* out;
  int n;
};

extern "C" __global__ void arithmetic(const Args p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  float x = ((const float*)p.in)[2 * i], y = ((const float*)p.in)[2 * i + 1];
  float* out = (float*)p.out + 4 * i;
  out[0] = __fadd_rn(__fmul_rn(x, y), x);
  out[1] = fmaf(x, y, x);
  out[2] = __fsqrt_rn(fabsf(x));
  out[3] = __fdiv_rn(x, y);
}

extern "C" __global__ void functions(const Args p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  float x = ((const float*)p.in)[2 * i], y = ((const float*)p.in)[2 * i + 1];
  float* out = (float*)p.out + 8 * i;
  out[0] = expf(x);
  out[1] = __expf(x);
  out[2] = logf(fabsf(x));
  out[3] = rsqrtf(fabsf(x));
  out[4] = tanhf(x);
  out[5] = log1pf(fabsf(y));
  out[6] = cosf(x) + 2.0f;
  out[7] = powf(fabsf(x), 1.5f);
}
