// 16-bit conversions and arithmetic on pairs (a, b) of floats; c = b. Eleven 16-bit results per type and pair.
#include "common/cuda.cuh"

struct Args {
  const void* in;
  void* out;
  int n;
};

extern "C" __global__ void halves(const Args p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  float x = ((const float*)p.in)[2 * i], y = ((const float*)p.in)[2 * i + 1];
  u16* out = (u16*)p.out + 22 * i;
  __half a = __float2half_rn(x), b = __float2half(y);
  out[0] = __half_as_ushort(a);
  out[1] = __half_as_ushort(__float2half_rz(x));
  out[2] = __half_as_ushort(__hadd(a, b));
  out[3] = __half_as_ushort(__hsub(a, b));
  out[4] = __half_as_ushort(__hmul(a, b));
  out[5] = __half_as_ushort(__hfma(a, b, b));
  out[6] = __half_as_ushort(__hneg(a));
  __half2 h = __hfma2(__floats2half2_rn(x, y), __halves2half2(b, a), __half2half2(a));
  out[7] = __half_as_ushort(__low2half(h));
  out[8] = __half_as_ushort(__high2half(h));
  out[9] = __half_as_ushort(__float2half_rn(__half2float(a) * 3.0f));
  out[10] = (u16)(__hlt(a, b) | __heq(a, b) << 1 | __hge(a, b) << 2);
  __nv_bfloat16 c = __float2bfloat16_rn(x), d = __float2bfloat16(y);
  out[11] = __bfloat16_as_ushort(c);
  out[12] = __bfloat16_as_ushort(__float2bfloat16_rz(x));
  out[13] = __bfloat16_as_ushort(__hadd(c, d));
  out[14] = __bfloat16_as_ushort(__hsub(c, d));
  out[15] = __bfloat16_as_ushort(__hmul(c, d));
  out[16] = __bfloat16_as_ushort(__hfma(c, d, d));
  out[17] = __bfloat16_as_ushort(__hneg(c));
  __nv_bfloat162 g = __hfma2(__floats2bfloat162_rn(x, y), __halves2bfloat162(d, c), __bfloat162bfloat162(c));
  out[18] = __bfloat16_as_ushort(__low2bfloat16(g));
  out[19] = __bfloat16_as_ushort(__high2bfloat16(g));
  out[20] = __bfloat16_as_ushort(__float2bfloat16_rn(__bfloat162float(c) * 3.0f));
  out[21] = (u16)(__hlt(c, d) | __heq(c, d) << 1 | __hge(c, d) << 2);
}
