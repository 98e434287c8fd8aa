// Atomics: real ones, since blocks run on several operating-system threads.
#pragma once

template <class T, class F>
inline T assay_atomic(T* p, F next) {
  T old;
  __atomic_load(p, &old, __ATOMIC_SEQ_CST);
  for (;;) {
    T want = next(old);
    if (__atomic_compare_exchange(p, &old, &want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
  }
}

#define ASSAY_ATOMIC(T)                                                                                     \
  inline T atomicAdd(T* p, T v) { return assay_atomic(p, [v](T a) { return (T)(a + v); }); }                \
  inline T atomicMax(T* p, T v) { return assay_atomic(p, [v](T a) { return a < v ? v : a; }); }             \
  inline T atomicMin(T* p, T v) { return assay_atomic(p, [v](T a) { return v < a ? v : a; }); }             \
  inline T atomicAnd(T* p, T v) { return assay_atomic(p, [v](T a) { return (T)(a & v); }); }                \
  inline T atomicOr(T* p, T v) { return assay_atomic(p, [v](T a) { return (T)(a | v); }); }                 \
  inline T atomicXor(T* p, T v) { return assay_atomic(p, [v](T a) { return (T)(a ^ v); }); }                \
  inline T atomicExch(T* p, T v) { return assay_atomic(p, [v](T) { return v; }); }                          \
  inline T atomicCAS(T* p, T cmp, T v) { return assay_atomic(p, [cmp, v](T a) { return a == cmp ? v : a; }); }
ASSAY_ATOMIC(int)
ASSAY_ATOMIC(unsigned)
ASSAY_ATOMIC(unsigned long long)
#undef ASSAY_ATOMIC
inline int atomicSub(int* p, int v) { return atomicAdd(p, -v); }
inline unsigned atomicSub(unsigned* p, unsigned v) { return atomicAdd(p, 0u - v); }
inline unsigned atomicInc(unsigned* p, unsigned top) {
  return assay_atomic(p, [top](unsigned a) { return a >= top ? 0u : a + 1; });
}
inline unsigned atomicDec(unsigned* p, unsigned top) {
  return assay_atomic(p, [top](unsigned a) { return a == 0 || a > top ? top : a - 1; });
}
inline long long atomicMax(long long* p, long long v) {
  return assay_atomic(p, [v](long long a) { return a < v ? v : a; });
}
inline long long atomicMin(long long* p, long long v) {
  return assay_atomic(p, [v](long long a) { return v < a ? v : a; });
}
inline float atomicAdd(float* p, float v) { return assay_atomic(p, [v](float a) { return a + v; }); }
inline double atomicAdd(double* p, double v) { return assay_atomic(p, [v](double a) { return a + v; }); }
inline float atomicExch(float* p, float v) { return assay_atomic(p, [v](float) { return v; }); }
