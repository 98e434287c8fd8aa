// fp8_kv_round_trip: rounds the first D − P dims of a row to E4M3 with a power-of-two scale per 64, in place; the P
// rotary dims stay (docs/model.md §8.1).
//
// Bit for bit the oracle's values: powers of two are built from exponent bits, since exp2f(ceilf(log2f(x))) is off by a
// factor of two for some x just above a power of two, and everything else is a correctly rounded f32 operation.
#include "common/cuda.cuh"

#include "args/fp8_kv_round_trip.h"
#include "common/reduce.cuh"

constexpr int kThreads = 256;
constexpr int kBlock = 64;

// The smallest power of two ≥ x, for positive normal x.
__device__ inline float power_of_two_at_least(float x) {
  const u32 bits = __float_as_uint(x);
  return __uint_as_float((bits & 0x007fffffu) == 0 ? bits : (bits & 0x7f800000u) + 0x00800000u);
}

// Nearest E4M3 value of |x| ≤ 448, ties to even: 3 mantissa bits, subnormal step 2^-9.
__device__ inline float e4m3(float x) {
  const int exponent = static_cast<int>(__float_as_uint(x) >> 23 & 0xff) - 127;
  const float step = __uint_as_float(static_cast<u32>(max(exponent, -6) - 3 + 127) << 23);
  return rintf(x / step) * step;
}

__device__ inline float round_trip(float v, float scale) {
  float x = v / scale;
  x = x > 448.0f ? 448.0f : x < -448.0f ? -448.0f : x;  // NaN stays
  return e4m3(x) * scale;
}

// Block r: row r; a warp takes every eighth block of 64, two neighbouring values a lane.
extern "C" __global__ void __launch_bounds__(kThreads) fp8_kv_round_trip(const Fp8KvRoundTripArgs a) {
  const int row = blockIdx.x, end = a.D - a.P;
  if (row >= *a.R) return;
  float* x = a.x + static_cast<long long>(row) * a.D;
  for (int block = threadIdx.x / 32 * kBlock; block < end; block += kThreads / 32 * kBlock) {
    const int i = block + threadIdx.x % 32 * 2;
    const float v = i < end ? x[i] : 0.0f, w = i + 1 < end ? x[i + 1] : 0.0f;
    const float amax = fmaxf(warp_max(fmaxf(fabsf(v), fabsf(w))), 1e-4f);
    const float scale = power_of_two_at_least(amax / 448.0f);
    if (i < end) x[i] = round_trip(v, scale);
    if (i + 1 < end) x[i + 1] = round_trip(w, scale);
  }
}
