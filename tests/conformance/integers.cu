// Integer and bit intrinsics on pairs (a, b) of 32-bit words; 24 results a pair.
#include "common/cuda.cuh"

struct Args {
  const void* in;
  void* out;
  int n;
};

extern "C" __global__ void integers(const Args p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.n) return;
  u32 a = ((const u32*)p.in)[2 * i], b = ((const u32*)p.in)[2 * i + 1];
  u32* out = (u32*)p.out + 24 * i;
  float f = __uint_as_float(a);
  out[0] = (u32)__dp4a((int)a, (int)b, 12345);
  out[1] = __dp4a(a, b, 12345u);
  out[2] = __byte_perm(a, b, a >> 7);
  out[3] = __funnelshift_l(a, b, b);
  out[4] = __funnelshift_r(a, b, b);
  out[5] = __brev(a);
  out[6] = (u32)__popc(a);
  out[7] = (u32)__clz((int)a);
  out[8] = (u32)__ffs((int)a);
  out[9] = (u32)__mulhi((int)a, (int)b);
  out[10] = __umulhi(a, b);
  out[11] = __sad((int)(a >> 1), (int)(b >> 1), 7u);
  out[12] = __vadd4(a, b);
  out[13] = __vsub4(a, b);
  out[14] = __vsubss4(a, b);
  out[15] = __vaddss4(a, b);
  out[16] = __vcmpeq4(a, b);
  out[17] = __vcmpne4(a & 0x00ff00ff, b & 0x00ff00ff);
  out[18] = (u32)__float2int_rn(f);
  out[19] = (u32)__float2int_rz(f);
  out[20] = (u32)__float2int_rd(f);
  out[21] = __float2uint_rn(f);
  out[22] = __float_as_uint(__int2float_rn((int)a));
  out[23] = __float_as_uint(__uint2float_rn(a));
}
