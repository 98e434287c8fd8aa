// Twins of mma and ldmatrix; common/mma.cuh has the fragment layouts.
#pragma once

template <class D>
struct AssayMma {
  D* d;
  const unsigned* a;
  const unsigned* b;
};

// Vectors of GCC and Clang: the compiler makes of them what the machine has, and each element is rounded as a scalar is.
// In sums they are held in arrays, as single elements of a vector are slow to reach.
typedef double AssayDoubles __attribute__((vector_size(32)));
typedef float AssayFloats __attribute__((vector_size(16)));
typedef unsigned AssayWords __attribute__((vector_size(16)));
typedef int AssayInts __attribute__((vector_size(16)));
typedef unsigned short AssayHalves __attribute__((vector_size(8)));
typedef signed char AssayBytes __attribute__((vector_size(4)));

template <class V>
inline __attribute__((always_inline)) void assay_load(V& v, const void* from) {
  __builtin_memcpy(&v, from, sizeof v);
}

// Two bytes an element. Four are widened at once, by way of the f32 whose bits E has for them.
template <class E>
struct AssaySixteen {
  typedef float Acc;
  typedef double Sum;
  typedef AssayDoubles Sums;
  static constexpr int K = 16, bytes = 2;
  static inline __attribute__((always_inline)) void widen(Sum* to, const char* from) {
    AssayHalves part;
    assay_load(part, from);
    Sums wide = __builtin_convertvector((AssayFloats)E::bits(__builtin_convertvector(part, AssayWords)), Sums);
    __builtin_memcpy(to, &wide, sizeof wide);
  }
};
struct AssayF16 : AssaySixteen<AssayF16> {
  // As assay_half_to_float.
  static inline __attribute__((always_inline)) AssayWords bits(AssayWords h) {
    AssayWords magnitude = (h & 0x7fffu) << 13;
    AssayWords scaled = (AssayWords)((AssayFloats)magnitude * assay_bits<float>(0x77800000u));
    AssayWords large = (AssayWords)(magnitude >= 0x0f800000u);
    return (large & (magnitude | 0x7f800000u)) | (~large & scaled) | (h & 0x8000u) << 16;
  }
};
struct AssayBf16 : AssaySixteen<AssayBf16> {
  static inline __attribute__((always_inline)) AssayWords bits(AssayWords h) { return h << 16; }
};
struct AssayS8 {
  typedef int Acc;
  typedef int Sum;
  typedef AssayInts Sums;
  static constexpr int K = 32, bytes = 1;
  static inline __attribute__((always_inline)) void widen(Sum* to, const char* from) {
    AssayBytes part;
    assay_load(part, from);
    Sums wide = __builtin_convertvector(part, Sums);
    __builtin_memcpy(to, &wide, sizeof wide);
  }
};

// One register of all lanes, in the lanes' order, is a matrix of 8 rows by K / 2: rows of a and columns of b.
template <class E>
__attribute__((no_sanitize("bounds", "alignment"))) inline void assay_mma_combine(void* const* lanes, unsigned) {
  typedef typename E::Sum Sum;
  typedef typename E::Sums Sums;
  typedef AssayMma<typename E::Acc> Op;
  constexpr int half = E::K / 2, all = 8 * half;
  unsigned a[4][32], b[2][32];
  for (int lane = 0; lane < 32; lane++) {
    const Op* op = (const Op*)lanes[lane];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) a[i][lane] = op->a[i];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) b[i][lane] = op->b[i];
  }
  Sum rows[4][all], columns[2][all], by_k[2][all];
  for (int i = 0; i < 4; i++)
    for (int at = 0; at < all; at += 4) E::widen(rows[i] + at, (const char*)a[i] + at * E::bytes);
  for (int i = 0; i < 2; i++) {
    for (int at = 0; at < all; at += 4) E::widen(columns[i] + at, (const char*)b[i] + at * E::bytes);
    for (int k = 0; k < half; k++)
      for (int n = 0; n < 8; n++) by_k[i][k * 8 + n] = columns[i][n * half + k];
  }
  for (int row = 0; row < 16; row++) {
    int low = row / 8;
    Op* const ops[4] = {(Op*)lanes[row % 8 * 4], (Op*)lanes[row % 8 * 4 + 1], (Op*)lanes[row % 8 * 4 + 2],
                        (Op*)lanes[row % 8 * 4 + 3]};
    Sum d[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) d[n] = ops[n / 2]->d[low * 2 + n % 2];
    Sums left, right, left_b, right_b;
    assay_load(left, d);
    assay_load(right, d + 4);
    // In the order of k.
    for (int i = 0; i < 2; i++) {
      const Sum* x = rows[2 * i + low] + row % 8 * half;
#pragma GCC unroll 16
      for (int k = 0; k < half; k++) {
        assay_load(left_b, by_k[i] + k * 8);
        assay_load(right_b, by_k[i] + k * 8 + 4);
        left += x[k] * left_b;
        right += x[k] * right_b;
      }
    }
    __builtin_memcpy(d, &left, sizeof left);
    __builtin_memcpy(d + 4, &right, sizeof right);
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) ops[n / 2]->d[low * 2 + n % 2] = (typename E::Acc)d[n];
  }
}

#define ASSAY_MMA(name, D, E)                                                                     \
  inline void name(D (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], ASSAY_HERE) {       \
    AssayMma<D> op{d, a, b};                                                                      \
    assay_host->warp(assay_self, 0xffffffffu, assay_mma_combine<E>, &op, ASSAY_AT);               \
  }
ASSAY_MMA(mma_m16n8k16_f16, float, AssayF16)
ASSAY_MMA(mma_m16n8k16_bf16, float, AssayBf16)
ASSAY_MMA(mma_m16n8k32_s8, int, AssayS8)
#undef ASSAY_MMA

struct AssayLdmatrix {
  unsigned* r;
  const void* row;
};
template <int N, bool TRANS>
inline void assay_ldmatrix_combine(void* const* lanes, unsigned) {
  for (int i = 0; i < N; i++) {
    unsigned short m[8][8];
    for (int row = 0; row < 8; row++) __builtin_memcpy(m[row], ((AssayLdmatrix*)lanes[8 * i + row])->row, 16);
    for (int lane = 0; lane < 32; lane++) {
      int g = lane / 4, t = lane % 4 * 2;
      unsigned lo = TRANS ? m[t][g] : m[g][t], hi = TRANS ? m[t + 1][g] : m[g][t + 1];
      ((AssayLdmatrix*)lanes[lane])->r[i] = hi << 16 | lo;
    }
  }
}

#define ASSAY_LDMATRIX(name, N, TRANS)                                                                       \
  inline void name(unsigned (&r)[N], const void* row, ASSAY_HERE) {                                          \
    if ((int)(assay_self->linear & 31) < 8 * N && reinterpret_cast<size_t>(row) % 16)                        \
      assay_host->fail(assay_self, "misaligned", #name " needs a row address on 16 bytes", ASSAY_AT);        \
    AssayLdmatrix op{r, row};                                                                                \
    assay_host->warp(assay_self, 0xffffffffu, assay_ldmatrix_combine<N, TRANS>, &op, ASSAY_AT);              \
  }
ASSAY_LDMATRIX(ldmatrix_x4, 4, false)
ASSAY_LDMATRIX(ldmatrix_x2, 2, false)
ASSAY_LDMATRIX(ldmatrix_x4_trans, 4, true)
ASSAY_LDMATRIX(ldmatrix_x2_trans, 2, true)
#undef ASSAY_LDMATRIX
