// Warp operations by one warp: 20 words a lane. in: one word a lane.
#include "common/cuda.cuh"

struct Args {
  const void* in;
  void* out;
  int n;
};

extern "C" __global__ void warps(const Args p) {
  const u32 all = 0xffffffffu;
  int lane = threadIdx.x;
  u32 v = ((const u32*)p.in)[lane];
  u32* out = (u32*)p.out + 20 * lane;
  out[0] = __shfl_sync(all, v, 5);
  out[1] = __shfl_sync(all, v, lane * 7 + 3);
  out[2] = __shfl_sync(all, v, lane + 9, 8);
  out[3] = __shfl_xor_sync(all, v, 13);
  out[4] = __shfl_xor_sync(all, v, 3, 4);
  out[5] = __shfl_up_sync(all, v, 6);
  out[6] = __shfl_up_sync(all, v, 3, 16);
  out[7] = __shfl_down_sync(all, v, 6);
  out[8] = __shfl_down_sync(all, v, 3, 16);
  out[9] = __ballot_sync(all, v & 4);
  out[10] = (u32)__any_sync(all, v == 17) | (u32)__all_sync(all, v < 0x80000000u) << 1;
  out[11] = __match_any_sync(all, v & 3);
  out[12] = __reduce_add_sync(all, v);
  out[13] = __reduce_min_sync(all, v);
  out[14] = (u32)__reduce_max_sync(all, (int)v);
  out[15] = __reduce_xor_sync(all, v);
  out[16] = __reduce_or_sync(all, v & 0x0ff0u);
  out[17] = __reduce_and_sync(all, v | 0x0ff0u);
  u32 half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[18] = __shfl_xor_sync(half, v, 8);
  float f = __shfl_xor_sync(all, __uint_as_float(v), 1);
  unsigned long long w = __shfl_xor_sync(all, (unsigned long long)v << 20, 1);
  out[19] = __float_as_uint(f) ^ (u32)(w >> 20);
}
