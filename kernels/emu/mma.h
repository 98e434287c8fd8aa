// Twins of mma and ldmatrix; common/mma.cuh has the fragment layouts.
#pragma once

template <class D>
struct AssayMma {
  D* d;
  const unsigned* a;
  const unsigned* b;
};

struct AssayF16 {
  typedef float Acc;
  typedef double Sum;
  static constexpr int K = 16, per = 2;
  static float get(unsigned reg, int i) { return assay_half_to_float((unsigned short)(reg >> 16 * i)); }
};
struct AssayBf16 {
  typedef float Acc;
  typedef double Sum;
  static constexpr int K = 16, per = 2;
  static float get(unsigned reg, int i) { return assay_bf16_to_float((unsigned short)(reg >> 16 * i)); }
};
struct AssayS8 {
  typedef int Acc;
  typedef int Sum;
  static constexpr int K = 32, per = 4;
  static int get(unsigned reg, int i) { return (int)(signed char)(reg >> 8 * i); }
};

template <class E>
inline void assay_mma_combine(void* const* lanes, unsigned) {
  typename E::Sum a[16][E::K], b[E::K][8];
  for (int lane = 0; lane < 32; lane++) {
    auto* op = (AssayMma<typename E::Acc>*)lanes[lane];
    int g = lane / 4, k = lane % 4 * E::per;
    for (int i = 0; i < E::per; i++) {
      a[g][k + i] = E::get(op->a[0], i);
      a[g + 8][k + i] = E::get(op->a[1], i);
      a[g][k + E::K / 2 + i] = E::get(op->a[2], i);
      a[g + 8][k + E::K / 2 + i] = E::get(op->a[3], i);
      b[k + i][g] = E::get(op->b[0], i);
      b[k + E::K / 2 + i][g] = E::get(op->b[1], i);
    }
  }
  for (int row = 0; row < 16; row++) {
    typename E::Sum sum[8];
    for (int n = 0; n < 8; n++)
      sum[n] = ((AssayMma<typename E::Acc>*)lanes[row % 8 * 4 + n / 2])->d[row / 8 * 2 + n % 2];
    for (int k = 0; k < E::K; k++)
      for (int n = 0; n < 8; n++) sum[n] += a[row][k] * b[k][n];
    for (int n = 0; n < 8; n++)
      ((AssayMma<typename E::Acc>*)lanes[row % 8 * 4 + n / 2])->d[row / 8 * 2 + n % 2] = (typename E::Acc)sum[n];
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
