// Pairs of f16 in one register: what mma fragments and shared memory hold.
#pragma once
#include "common/cuda.cuh"

union HalfPair {
  u32 bits;
  __half2 h;
};

__device__ inline u32 pack_halves(float low, float high) {
  HalfPair pair;
  pair.h = __floats2half2_rn(low, high);
  return pair.bits;
}

__device__ inline float2 unpack_halves(u32 bits) {
  HalfPair pair;
  pair.bits = bits;
  return __half22float2(pair.h);
}
