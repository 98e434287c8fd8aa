// mma, ldmatrix and cp.async by one warp. Every entry copies its operands to shared memory with cp.async and loads
// fragments with ldmatrix, then writes D row by row.
#include "common/async.cuh"
#include "common/cuda.cuh"
#include "common/mma.cuh"

struct Args {
  const void* in;
  void* out;
  int n;
};

// n bytes from `in` to shared memory, 16 a time, the lanes in turn.
__device__ __forceinline__ u8* stage(const Args& p) {
  DYN_SHARED(u8, s);
  for (int i = 16 * threadIdx.x; i < p.n; i += 512) cp_async_16(s + i, (const u8*)p.in + i);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  return s;
}

template <class T>
__device__ __forceinline__ void store(const Args& p, const T (&d)[4]) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  T* out = (T*)p.out;
  out[g * 8 + t] = d[0];
  out[g * 8 + t + 1] = d[1];
  out[(g + 8) * 8 + t] = d[2];
  out[(g + 8) * 8 + t + 1] = d[3];
}

// in: A [16][16] then B transposed [8 n][16 k] then C [16][8] f32; 16-bit operands.
template <bool BF16>
__device__ __forceinline__ void product(const Args& p) {
  u8* s = stage(p);
  int lane = threadIdx.x, g = lane / 4, t = lane % 4 * 2;
  u32 a[4], b[2];
  ldmatrix_x4(a, s + (lane % 8 + lane / 8 % 2 * 8) * 32 + lane / 16 * 16);
  ldmatrix_x2(b, s + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
  const float* c = (const float*)(s + 768);
  float d[4] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};
  if (BF16)
    mma_m16n8k16_bf16(d, a, b);
  else
    mma_m16n8k16_f16(d, a, b);
  store(p, d);
}
extern "C" __global__ void mma_f16(const Args p) { product<false>(p); }
extern "C" __global__ void mma_bf16(const Args p) { product<true>(p); }

// in: A [16][32] i8, B transposed [8][32] i8, C [16][8] i32
extern "C" __global__ void mma_s8(const Args p) {
  u8* s = stage(p);
  int lane = threadIdx.x, g = lane / 4, t = lane % 4 * 2;
  u32 a[4], b[2];
  ldmatrix_x4(a, s + (lane % 8 + lane / 8 % 2 * 8) * 32 + lane / 16 * 16);
  ldmatrix_x2(b, s + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
  const int* c = (const int*)(s + 768);
  int d[4] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};
  mma_m16n8k32_s8(d, a, b);
  store(p, d);
}

// in: four 8×8 matrices of 16 bits; out: r of x4, x4_trans, x2, x2_trans, 12 words a lane
extern "C" __global__ void ldmatrix(const Args p) {
  u8* s = stage(p);
  u32 x4[4], x4t[4], x2[2], x2t[2];
  const u8* row = s + threadIdx.x * 16;
  ldmatrix_x4(x4, row);
  ldmatrix_x4_trans(x4t, row);
  ldmatrix_x2(x2, row);
  ldmatrix_x2_trans(x2t, row);
  u32* out = (u32*)p.out + 12 * threadIdx.x;
  for (int i = 0; i < 4; i++) out[i] = x4[i], out[4 + i] = x4t[i];
  for (int i = 0; i < 2; i++) out[8 + i] = x2[i], out[10 + i] = x2t[i];
}

// in: 512 bytes; odd lanes copy zeros. Two groups; the first is waited for alone.
extern "C" __global__ void copies(const Args p) {
  DYN_SHARED(u8, s);
  int at = 16 * threadIdx.x;
  cp_async_16_or_zero(s + at, (const u8*)p.in + at, threadIdx.x % 2 == 0);
  cp_async_commit();
  cp_async_16(s + 512 + at, (const u8*)p.in + (496 - at));
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  uint4 first = *(const uint4*)(s + (at ^ 32));
  cp_async_wait<0>();
  __syncthreads();
  uint4 second = *(const uint4*)(s + 512 + (at ^ 64));
  ((uint4*)p.out)[2 * threadIdx.x] = first;
  ((uint4*)p.out)[2 * threadIdx.x + 1] = second;
}
