// CUDA's built-in vector types, with CUDA's alignments.
#pragma once

#define ASSAY_VECTOR(T, N, A1, A2, A3, A4)                      \
  struct A1 N##1 { T x; };                                      \
  struct A2 N##2 { T x, y; };                                   \
  struct A3 N##3 { T x, y, z; };                                \
  struct A4 N##4 { T x, y, z, w; };                             \
  inline N##1 make_##N##1(T x) { return {x}; }                  \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }          \
  inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }  \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }

ASSAY_VECTOR(signed char, char, , alignas(2), , alignas(4))
ASSAY_VECTOR(unsigned char, uchar, , alignas(2), , alignas(4))
ASSAY_VECTOR(short, short, , alignas(4), , alignas(8))
ASSAY_VECTOR(unsigned short, ushort, , alignas(4), , alignas(8))
ASSAY_VECTOR(int, int, , alignas(8), , alignas(16))
ASSAY_VECTOR(unsigned, uint, , alignas(8), , alignas(16))
ASSAY_VECTOR(long long, longlong, , alignas(16), , alignas(16))
ASSAY_VECTOR(unsigned long long, ulonglong, , alignas(16), , alignas(16))
ASSAY_VECTOR(float, float, , alignas(8), , alignas(16))
ASSAY_VECTOR(double, double, , alignas(16), , alignas(16))
#undef ASSAY_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
