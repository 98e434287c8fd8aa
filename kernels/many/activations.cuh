// Activations for the products of many tokens, brought into the tensor cores' type once and not by every tile.
//
// A row of x becomes f16 under one power-of-two scale: PARTS = 1 rounds it to f16, PARTS = 2 keeps a second f16 with
// what the first one lost, 22 bits together. The scale puts a row's largest magnitude at 2^9 .. 2^10: from there
// f16 reaches 24 powers of two down before it loses bits, and a sum of 32 elements still is one.
#pragma once
#include "common/cuda.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"
#include "quant/format.cuh"

// Elements of K that a block stages at once; rows are padded to whole steps with zeros.
constexpr int kManyStep = 128;

__device__ inline int padded_width(int k) { return (k + kManyStep - 1) / kManyStep * kManyStep; }

// How many f16 the group sums of 256 elements take: two for each group.
template <int GROUP>
constexpr int kSumHalves = GROUP == 0 ? 0 : 2 * (256 / GROUP);

// The scratch of a product. PARTS as above; GROUP: elements that share a minimum (16 or 32), 0 where there is none.
// A manifest reserves, for each row of k elements,
//   ceil_div(k, 128)·256·PARTS + 4 bytes, and k/4 (GROUP 16) or k/8 (GROUP 32) more.
template <int PARTS, int GROUP>
struct Activations {
  u16* x;        // [rows][PARTS][width]
  u16* sums;     // [rows][width / 256][kSumHalves]: sums over groups, of the values as multiplied
  float* scale;  // [rows]
  int width;

  __device__ Activations(unsigned char* scratch, long long rows, int k) : width(padded_width(k)) {
    x = reinterpret_cast<u16*>(scratch);
    sums = x + rows * PARTS * width;
    scale = reinterpret_cast<float*>(sums + rows * (GROUP == 0 ? 0 : k / 256 * kSumHalves<GROUP>));
  }

  // Behind them: 4-byte aligned.
  __device__ unsigned char* after(long long rows) const { return reinterpret_cast<unsigned char*>(scale + rows); }

  __device__ u16* row_sums(long long row) const { return sums + row * (width / 256 * kSumHalves<GROUP>); }

  // One row, by one warp. It is read twice, the second time from a cache; four loads of a lane are under way at a time.
  __device__ void prepare(const float* from, int k, long long row) const {
    const int lane = threadIdx.x % 32, at = 4 * lane, unrolled = aligned16(from) ? k / 512 * 512 : 0;
    float amax = 0.0f;
    for (int e = 0; e < unrolled; e += 512) {
      float4 v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const float4*>(from + e + 128 * i + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) amax = fmaxf(amax, largest(v[i]));
    }
    for (int e = unrolled + at; e < k; e += 128) amax = fmaxf(amax, largest(load4(from, e, k)));
    const u32 exponent = min(max(__float_as_uint(warp_max(amax)) >> 23 & 0xffu, 10u), 253u);
    const float inverse = __uint_as_float((263 - exponent) << 23);
    if (lane == 0) scale[row] = __uint_as_float((exponent - 9) << 23);
    for (int e = 0; e < unrolled; e += 512) {
      float4 v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const float4*>(from + e + 128 * i + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) store(v[i], inverse, row, e + 128 * i + at);
    }
    for (int e = unrolled + at; e < width; e += 128) store(load4(from, e, k), inverse, row, e);
  }

 private:
  __device__ static float largest(const float4& v) {
    return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  }

  __device__ void store(const float4& v, float inverse, long long row, int e) const {
    u16* to = x + row * PARTS * width + e;
    const float u[4] = {v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse};
    u32 high[4], low[4];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = float_to_half_bits(u[i]);
      const float rounded = half_bits_to_float(high[i]);
      low[i] = float_to_half_bits(u[i] - rounded);
      // Of the activations as multiplied: a minimum cancels most of scale · q, and must meet the same rounding there.
      sum += PARTS == 1 ? rounded : u[i];
    }
    *reinterpret_cast<uint2*>(to) = make_uint2(high[0] | high[1] << 16, high[2] | high[3] << 16);
    if (PARTS == 2) {
      *reinterpret_cast<uint2*>(to + width) = make_uint2(low[0] | low[1] << 16, low[2] | low[3] << 16);
    }
    if constexpr (GROUP != 0) store_sum(row, e, sum);
  }

  // `sum` is that of the lane's four elements from `e` on. The order is the one in which a thread of the product takes
  // them: for each of 4, a pair of groups (two pairs that lie 8 apart where there are 16), first the high parts.
  __device__ void store_sum(long long row, int e, float sum) const {
#pragma unroll
    for (int lanes = 1; lanes < GROUP / 4; lanes <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (e % GROUP != 0) return;
    constexpr int kEach = kSumHalves<GROUP> / 4;
    const int group = e % 256 / GROUP;
    u16* to = row_sums(row) + e / 256 * kSumHalves<GROUP> + group % 8 / 2 * kEach + group / 8 * 2 + group % 2;
    const u32 high = float_to_half_bits(sum);
    to[0] = static_cast<u16>(high);
    to[kEach / 2] = static_cast<u16>(float_to_half_bits(sum - half_bits_to_float(high)));
  }
};
