// What a block format gives to a product, and the bit tricks that all of them use.
//
// Kernels for few tokens take a weight row 16 consecutive elements at a time: a *chunk*. In every format a chunk's elements share one
// scale and one minimum, so an element is `scale · q − min` with q a small whole number (or, in the plain formats, the
// value itself). Products are formed with q, and scale and minimum are applied once per chunk. A format is a
// struct with
//   kElems, kBytes   elements and bytes of a stored block
//   kMin             whether there is a minimum
//   Chunk            registers that hold a chunk as stored
//   load(row, e, k)  the chunk of elements e .. e + 16, e a multiple of 16; elements from k on are zeros
//   floats(chunk, q, scale, min)      q as f32, for FMA
// Products of many tokens take larger pieces: many/tile.cuh.
// Rows of most formats start on any even address: blocks of 34 and 66 bytes keep no more than that.
#pragma once
#include "common/cuda.cuh"
#include "common/vec.cuh"

template <class W>
__device__ inline const u8* weight_row(const void* weights, long long row, int k) {
  return static_cast<const u8*>(weights) + row * (static_cast<long long>(k) / W::kElems * W::kBytes);
}

__device__ inline u32 load_u16(const u8* p) { return *reinterpret_cast<const u16*>(p); }
__device__ inline u32 load_u32(const u8* p) { return *reinterpret_cast<const u32*>(p); }
// Where blocks keep 2-byte alignment only.
__device__ inline u32 load_u32_even(const u8* p) { return load_u16(p) | load_u16(p + 2) << 16; }

__device__ inline float half_bits_to_float(u32 bits) { return __half2float(__ushort_as_half(static_cast<u16>(bits))); }
__device__ inline u32 float_to_half_bits(float v) { return __half_as_ushort(__float2half_rn(v)); }

// Byte i of v as a float. An integer up to 23 bits in the mantissa of 2^23 is 2^23 plus itself: one byte permute and
// one subtraction, where the integer conversion instruction runs at a quarter of their rate.
__device__ inline float byte_to_float(u32 v, int i) {
  return __uint_as_float(0x4b000000u | ((v >> (8 * i)) & 0xffu)) - 8388608.0f;
}

__device__ inline float signed_byte_to_float(u32 v, int i) {
  return __uint_as_float(0x4b000000u | (((v ^ 0x80808080u) >> (8 * i)) & 0xffu)) - 8388736.0f;
}
