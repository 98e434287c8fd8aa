// Walsh–Hadamard transform of 128 values, then E2M1 with a power-of-two scale per 32, in place (docs/model.md §11.1).
//
// A warp a vector, four neighbouring values a lane: strides 1 and 2 stay in the lane, 4 to 64 are shuffles. The order
// of the additions is part of the contract: the rounding that follows is compared bit for bit.
#include "common/cuda.cuh"
#include "args/hadamard_fp4_round_trip.h"

constexpr int THREADS = 256;
constexpr int DIM = 128;

__device__ inline void butterfly(float& a, float& b) {
  const float sum = a + b, difference = a - b;
  a = sum, b = difference;
}

// The least power of two ≥ x, for positive normal x.
__device__ inline float power_of_two_at_least(float x) {
  const u32 bits = __float_as_uint(x);
  return __uint_as_float(bits & 0x007fffffu ? (bits & 0x7f800000u) + 0x00800000u : bits);
}

// Nearest of 0, .5, 1, 1.5, 2, 3, 4, 6 with sign, ties to the even code, for |x| ≤ 6.
__device__ inline float e2m1(float x) {
  const float size = fabsf(x), step = size < 2.0f ? 0.5f : size < 4.0f ? 1.0f : 2.0f;
  return copysignf(rintf(size / step) * step, x);
}

extern "C" __global__ void __launch_bounds__(THREADS) hadamard_fp4_round_trip(const HadamardFp4RoundTripArgs a) {
  const size_t vector = size_t(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (vector >= size_t(*a.R) * a.H || a.D != DIM) return;
  float* x = a.x + vector * DIM + 4 * lane;
  const float4 in = *(const float4*)x;
  float v[4] = {in.x, in.y, in.z, in.w};
  butterfly(v[0], v[1]), butterfly(v[2], v[3]);
  butterfly(v[0], v[2]), butterfly(v[1], v[3]);
  for (int d = 1; d < 32; d *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float other = __shfl_xor_sync(0xffffffffu, v[i], d);
      v[i] = lane & d ? other - v[i] : v[i] + other;
    }

  float most = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] *= 0.08838834764831845f;  // 1/sqrt(128)
    most = fmaxf(most, fabsf(v[i]));
  }
  for (int d = 1; d < 8; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));  // 8 lanes hold 32 values
  const float scale = power_of_two_at_least(fmaxf(most, 7.052966104933725e-38f) / 6.0f);  // floor: 6·2^-126
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = e2m1(fminf(fmaxf(v[i] / scale, -6.0f), 6.0f)) * scale;
  *(float4*)x = {v[0], v[1], v[2], v[3]};
}
