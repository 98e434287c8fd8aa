// CUDA's arithmetic intrinsics and math functions.
#pragma once

template <class To, class From>
inline To assay_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To out;
  __builtin_memcpy(&out, &v, sizeof out);
  return out;
}

extern "C" {
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
float sinf(float) noexcept;
float cosf(float) noexcept;
float tanf(float) noexcept;
float sinhf(float) noexcept;
float coshf(float) noexcept;
float tanhf(float) noexcept;
float asinf(float) noexcept;
float acosf(float) noexcept;
float atanf(float) noexcept;
float atan2f(float, float) noexcept;
float expf(float) noexcept;
float exp2f(float) noexcept;
float expm1f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float log10f(float) noexcept;
float log1pf(float) noexcept;
float powf(float, float) noexcept;
float sqrtf(float) noexcept;
float cbrtf(float) noexcept;
float hypotf(float, float) noexcept;
float erff(float) noexcept;
float erfcf(float) noexcept;
float fabsf(float) noexcept;
float floorf(float) noexcept;
float ceilf(float) noexcept;
float truncf(float) noexcept;
float roundf(float) noexcept;
float rintf(float) noexcept;
float nearbyintf(float) noexcept;
long lrintf(float) noexcept;
float fmodf(float, float) noexcept;
float remainderf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
float fminf(float, float) noexcept;
float fmaxf(float, float) noexcept;
float copysignf(float, float) noexcept;
float ldexpf(float, int) noexcept;
float scalbnf(float, int) noexcept;
float frexpf(float, int*) noexcept;
float modff(float, float*) noexcept;
float nextafterf(float, float) noexcept;
double sin(double) noexcept;
double cos(double) noexcept;
double tanh(double) noexcept;
double exp(double) noexcept;
double exp2(double) noexcept;
double log(double) noexcept;
double log2(double) noexcept;
double log1p(double) noexcept;
double pow(double, double) noexcept;
double sqrt(double) noexcept;
double fabs(double) noexcept;
double floor(double) noexcept;
double ceil(double) noexcept;
double trunc(double) noexcept;
double round(double) noexcept;
double rint(double) noexcept;
double fma(double, double, double) noexcept;
double fmin(double, double) noexcept;
double fmax(double, double) noexcept;
double ldexp(double, int) noexcept;
int abs(int) noexcept;
}

// CUDA overloads the C names for float.
#define ASSAY_F1(name) \
  inline float name(float x) { return __builtin_##name##f(x); }
#define ASSAY_F2(name) \
  inline float name(float x, float y) { return __builtin_##name##f(x, y); }
ASSAY_F1(sin) ASSAY_F1(cos) ASSAY_F1(tanh) ASSAY_F1(exp) ASSAY_F1(exp2) ASSAY_F1(log) ASSAY_F1(log2) ASSAY_F1(log1p)
ASSAY_F1(sqrt) ASSAY_F1(fabs) ASSAY_F1(floor) ASSAY_F1(ceil) ASSAY_F1(trunc) ASSAY_F1(round) ASSAY_F1(rint)
ASSAY_F2(pow) ASSAY_F2(fmin) ASSAY_F2(fmax)
#undef ASSAY_F1
#undef ASSAY_F2
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool signbit(float x) { return __builtin_signbit(x); }
#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
#ifndef NAN
#define NAN __builtin_nanf("")
#endif

#define ASSAY_MINMAX(T)                                  \
  inline T min(T a, T b) { return b < a ? b : a; }       \
  inline T max(T a, T b) { return a < b ? b : a; }
ASSAY_MINMAX(int) ASSAY_MINMAX(unsigned) ASSAY_MINMAX(long) ASSAY_MINMAX(unsigned long) ASSAY_MINMAX(long long)
ASSAY_MINMAX(unsigned long long)
#undef ASSAY_MINMAX
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }

inline float rsqrtf(float x) { return (float)(1.0 / __builtin_sqrt((double)x)); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline float exp10f(float x) { return powf(10.0f, x); }
inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * __builtin_remainder((double)x, 2.0)); }
inline float cospif(float x) { return (float)cos(3.14159265358979323846 * __builtin_remainder((double)x, 2.0)); }
inline void sincos(double x, double* s, double* c) { *s = sin(x), *c = cos(x); }
inline void sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline float fdividef(float a, float b) { return a / b; }
inline float fdimf(float a, float b) { return a > b ? a - b : 0.0f; }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }

// The fast ones lose what the device's lose: each is a base-2 or per-turn instruction with a short result behind one
// f32 multiplication, so that the error of a sine grows with its argument and that of an exponential too.
inline float emu_short(float x, int bits) {
  unsigned u = __builtin_bit_cast(unsigned, x), low = 23 - bits;
  if ((u & 0x7f800000u) == 0x7f800000u) return x;
  return __builtin_bit_cast(float, (u + (1u << (low - 1))) & ~((1u << low) - 1));
}
inline float __log2f(float x) { return emu_short(log2f(x), 21); }
inline float __expf(float x) { return emu_short(exp2f(x * 1.44269504f), 21); }
inline float __exp10f(float x) { return emu_short(exp2f(x * 3.32192809f), 21); }
inline float __logf(float x) { return __log2f(x) * 0.693147181f; }
inline float __log10f(float x) { return __log2f(x) * 0.301029996f; }
inline float __powf(float x, float y) { return emu_short(exp2f(y * __log2f(x)), 21); }
// The argument goes in as turns with an absolute error of about 2^-24, and comes out with one of about 2^-21.
inline float emu_turn(float x, float quarter) {
  float turns = x * 0.159154943f;
  turns = __builtin_rintf(turns * 0x1p22f) * 0x1p-22f;
  return (float)(__builtin_rint(sin(6.28318530717958648 * ((double)turns + quarter)) * 0x1p21) * 0x1p-21);
}
inline float __sinf(float x) { return emu_turn(x, 0.0f); }
inline float __cosf(float x) { return emu_turn(x, 0.25f); }
inline float __tanf(float x) { return __sinf(x) / __cosf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = __sinf(x), *c = __cosf(x); }
inline float __fdividef(float a, float b) { return fabsf(b) > 0x1p126f && fabsf(b) < INFINITY ? 0.0f : emu_short(a / b, 22); }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

// ---- conversions: out-of-range values saturate and NaN becomes 0, as cvt does ----

template <class I>
inline I assay_saturate(double x, double low, double high) {
  return x != x ? (I)0 : x <= low ? (I)low : x >= high ? (I)high : (I)x;
}
inline int __float2int_rn(float x) { return assay_saturate<int>(__builtin_rintf(x), -2147483648.0, 2147483647.0); }
inline int __float2int_rz(float x) { return assay_saturate<int>(__builtin_truncf(x), -2147483648.0, 2147483647.0); }
inline int __float2int_rd(float x) { return assay_saturate<int>(__builtin_floorf(x), -2147483648.0, 2147483647.0); }
inline int __float2int_ru(float x) { return assay_saturate<int>(__builtin_ceilf(x), -2147483648.0, 2147483647.0); }
inline unsigned __float2uint_rn(float x) { return assay_saturate<unsigned>(__builtin_rintf(x), 0.0, 4294967295.0); }
inline unsigned __float2uint_rz(float x) { return assay_saturate<unsigned>(__builtin_truncf(x), 0.0, 4294967295.0); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline float __double2float_rn(double x) { return (float)x; }
inline int __float_as_int(float x) { return assay_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return assay_bits<unsigned>(x); }
inline float __int_as_float(int x) { return assay_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return assay_bits<float>(x); }
inline long long __double_as_longlong(double x) { return assay_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return assay_bits<double>(x); }

// ---- bits ----

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  x = __builtin_bswap32(x);
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  return (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
}
inline unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
// Three bits a selector: unlike prmt, the intrinsic has no sign mode.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  unsigned long long both = (unsigned long long)y << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) out |= ((unsigned)(both >> 8 * (s >> 4 * i & 7)) & 0xff) << 8 * i;
  return out;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
  return (unsigned)(((unsigned long long)hi << 32 | lo) << (s & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
  return (unsigned)(((unsigned long long)hi << 32 | lo) >> (s & 31));
}
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
inline unsigned __sad(int a, int b, unsigned c) { return c + (unsigned)(a < b ? b - a : a - b); }

// ---- packed bytes ----

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int)(signed char)(a >> 8 * i) * (int)(signed char)(b >> 8 * i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
  return c;
}
inline int __dp4a(char4 a, char4 b, int c) { return c + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
#define ASSAY_BYTES(name, S, expr)                                        \
  inline unsigned name(unsigned a, unsigned b) {                          \
    unsigned out = 0;                                                     \
    for (int i = 0; i < 4; i++) {                                         \
      S x = (S)(a >> 8 * i), y = (S)(b >> 8 * i);                         \
      out |= ((unsigned)(expr) & 0xff) << 8 * i;                          \
    }                                                                     \
    return out;                                                           \
  }
ASSAY_BYTES(__vadd4, unsigned char, x + y)
ASSAY_BYTES(__vsub4, unsigned char, x - y)
ASSAY_BYTES(__vaddss4, signed char, max(-128, min(127, x + y)))
ASSAY_BYTES(__vsubss4, signed char, max(-128, min(127, x - y)))
ASSAY_BYTES(__vcmpeq4, unsigned char, x == y ? 0xff : 0)
ASSAY_BYTES(__vcmpne4, unsigned char, x != y ? 0xff : 0)
ASSAY_BYTES(__vmaxs4, signed char, x > y ? x : y)
ASSAY_BYTES(__vmins4, signed char, x < y ? x : y)
ASSAY_BYTES(__vmaxu4, unsigned char, x > y ? x : y)
ASSAY_BYTES(__vminu4, unsigned char, x < y ? x : y)
#undef ASSAY_BYTES
inline unsigned __vneg4(unsigned a) { return __vsub4(0, a); }

// ---- cached loads and stores: plain ones here ----

template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline T __ldlu(const T* p) { return *p; }
template <class T> inline T __ldcv(const T* p) { return *(const volatile T*)p; }
template <class T> inline void __stwb(T* p, T v) { *p = v; }
template <class T> inline void __stcg(T* p, T v) { *p = v; }
template <class T> inline void __stcs(T* p, T v) { *p = v; }
template <class T> inline void __stwt(T* p, T v) { *p = v; }
