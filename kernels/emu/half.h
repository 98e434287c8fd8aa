// __half and __nv_bfloat16 with CUDA's names. Storage is 16 bits; arithmetic is exact or in f32/f64 with one rounding to
// nearest even at the end, which is what the device's instructions give.
#pragma once

inline float assay_half_to_float(unsigned short h) {
  unsigned magnitude = (h & 0x7fffu) << 13;
  // 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
  float f = assay_bits<float>(magnitude) * assay_bits<float>(0x77800000u);
  unsigned bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : assay_bits<unsigned>(f);
  return assay_bits<float>(bits | (h & 0x8000u) << 16);
}

inline unsigned short assay_float_to_half(float x) {
  unsigned bits = assay_bits<unsigned>(x), sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return 0x7fff;                           // NaN: the device's canonical one
  if (bits >= 0x477ff000u) return (unsigned short)(sign | 0x7c00);  // rounds to 2^16 or above
  if (bits < 0x38800000u) {                                         // below 2^-14: adding 0.5 rounds at bit 2^-24
    float shifted = assay_bits<float>(bits) + 0.5f;
    return (unsigned short)(sign | (assay_bits<unsigned>(shifted) - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1);
  return (unsigned short)(sign | ((bits - 0x38000000u) >> 13));
}

inline float assay_bf16_to_float(unsigned short h) { return assay_bits<float>((unsigned)h << 16); }

inline unsigned short assay_float_to_bf16(float x) {
  unsigned bits = assay_bits<unsigned>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// a·b + c with one rounding, for 16-bit operands: the product is exact in double; if the sum is not, its last bit is
// made odd, so that the second rounding (to f32 by odd again, then to 16 bits) cannot fall on a false tie.
inline float assay_fma_odd(double a, double b, double c) {
  double p = a * b, s = p + c;
  if (!__builtin_isfinite(s)) return (float)s;
  double back = s - p, rest = (p - (s - back)) + (c - back);
  unsigned long long bits = assay_bits<unsigned long long>(s);
  if (rest != 0 && !(bits & 1)) bits += (rest > 0) == (s > 0) ? 1 : -1;
  s = assay_bits<double>(bits);
  float f = (float)s;
  if ((double)f != s && f == f && __builtin_isfinite(f)) {
    unsigned u = assay_bits<unsigned>(f);
    bool away = __builtin_fabs((double)f) > __builtin_fabs(s);
    if (away && !(u & 1)) u -= 1;
    else if (!away && !(u & 1)) u += 1;
    f = assay_bits<float>(u);
  }
  return f;
}

struct alignas(2) __half {
  unsigned short bits;
  __half() = default;
  __half(float x) : bits(assay_float_to_half(x)) {}
  __half(double x) : bits(assay_float_to_half((float)x)) {}
  __half(int x) : bits(assay_float_to_half((float)x)) {}
  operator float() const { return assay_half_to_float(bits); }
};
struct alignas(2) __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) : bits(assay_float_to_bf16(x)) {}
  __nv_bfloat16(double x) : bits(assay_float_to_bf16((float)x)) {}
  __nv_bfloat16(int x) : bits(assay_float_to_bf16((float)x)) {}
  operator float() const { return assay_bf16_to_float(bits); }
};
struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  __half2(__half x, __half y) : x(x), y(y) {}
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline __half __ushort_as_half(unsigned short v) { __half h; h.bits = v; return h; }
inline __half __short_as_half(short v) { return __ushort_as_half((unsigned short)v); }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline short __half_as_short(__half h) { return (short)h.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { __nv_bfloat16 h; h.bits = v; return h; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }

inline float __half2float(__half h) { return h; }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __float2half_rz(float x) {
  __half h(x);
  if (x == x && fabsf((float)h) > fabsf(x)) h.bits -= 1;
  return h;
}
inline __half __double2half(double x) {
  float f = (float)x;  // by odd, then to nearest
  unsigned u = assay_bits<unsigned>(f);
  if ((double)f != x && f == f && __builtin_isfinite(f) && !(u & 1)) u += __builtin_fabs((double)f) > __builtin_fabs(x) ? -1 : 1;
  return __half(assay_bits<float>(u));
}
inline __half __int2half_rn(int x) { return __double2half((double)x); }
inline int __half2int_rn(__half h) { return __float2int_rn((float)h); }
inline int __half2int_rz(__half h) { return __float2int_rz((float)h); }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rz(float x) {
  return x == x ? __ushort_as_bfloat16((unsigned short)(assay_bits<unsigned>(x) >> 16)) : __nv_bfloat16(x);
}

#define ASSAY_16BIT(H, H2)                                                                       \
  inline float __low2float(H2 v) { return v.x; }                                                 \
  inline float __high2float(H2 v) { return v.y; }                                                \
  inline H __hadd(H a, H b) { return H((float)a + (float)b); }                                   \
  inline H __hsub(H a, H b) { return H((float)a - (float)b); }                                   \
  inline H __hmul(H a, H b) { return H((float)a * (float)b); }                                   \
  inline H __hdiv(H a, H b) { return H((float)a / (float)b); }                                   \
  inline H __hfma(H a, H b, H c) { return H(assay_fma_odd((float)a, (float)b, (float)c)); }      \
  inline H __hneg(H a) { a.bits ^= 0x8000; return a; }                                           \
  inline H __habs(H a) { a.bits &= 0x7fff; return a; }                                           \
  inline H __hmax(H a, H b) { return H(fmaxf(a, b)); }                                           \
  inline H __hmin(H a, H b) { return H(fminf(a, b)); }                                           \
  inline H hexp(H a) { return H(expf(a)); }                                                      \
  inline H hlog(H a) { return H(logf(a)); }                                                      \
  inline H hsqrt(H a) { return H(sqrtf(a)); }                                                    \
  inline H hrsqrt(H a) { return H(rsqrtf(a)); }                                                  \
  inline bool __heq(H a, H b) { return (float)a == (float)b; }                                   \
  inline bool __hne(H a, H b) { return (float)a != (float)b; }                                   \
  inline bool __hlt(H a, H b) { return (float)a < (float)b; }                                    \
  inline bool __hle(H a, H b) { return (float)a <= (float)b; }                                   \
  inline bool __hgt(H a, H b) { return (float)a > (float)b; }                                    \
  inline bool __hge(H a, H b) { return (float)a >= (float)b; }                                   \
  inline bool __hisnan(H a) { return isnan((float)a); }                                          \
  inline H2 __hadd2(H2 a, H2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                 \
  inline H2 __hsub2(H2 a, H2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                 \
  inline H2 __hmul2(H2 a, H2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                 \
  inline H2 __hfma2(H2 a, H2 b, H2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  inline H2 __hneg2(H2 a) { return {__hneg(a.x), __hneg(a.y)}; }                                 \
  inline H2 __habs2(H2 a) { return {__habs(a.x), __habs(a.y)}; }                                 \
  inline H2 __hmax2(H2 a, H2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                 \
  inline H2 __hmin2(H2 a, H2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                 \
  inline H operator+(H a, H b) { return __hadd(a, b); }                                          \
  inline H operator-(H a, H b) { return __hsub(a, b); }                                          \
  inline H operator*(H a, H b) { return __hmul(a, b); }                                          \
  inline H operator/(H a, H b) { return __hdiv(a, b); }                                          \
  inline H operator-(H a) { return __hneg(a); }                                                  \
  inline H& operator+=(H& a, H b) { return a = __hadd(a, b); }                                   \
  inline H& operator-=(H& a, H b) { return a = __hsub(a, b); }                                   \
  inline H& operator*=(H& a, H b) { return a = __hmul(a, b); }                                   \
  inline bool operator==(H a, H b) { return __heq(a, b); }                                       \
  inline bool operator!=(H a, H b) { return __hne(a, b); }                                       \
  inline bool operator<(H a, H b) { return __hlt(a, b); }                                        \
  inline bool operator<=(H a, H b) { return __hle(a, b); }                                       \
  inline bool operator>(H a, H b) { return __hgt(a, b); }                                        \
  inline bool operator>=(H a, H b) { return __hge(a, b); }                                       \
  inline H2 operator+(H2 a, H2 b) { return __hadd2(a, b); }                                      \
  inline H2 operator-(H2 a, H2 b) { return __hsub2(a, b); }                                      \
  inline H2 operator*(H2 a, H2 b) { return __hmul2(a, b); }
ASSAY_16BIT(__half, __half2)
ASSAY_16BIT(__nv_bfloat16, __nv_bfloat162)
#undef ASSAY_16BIT

inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline __half2 make_half2(__half a, __half b) { return {a, b}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {__nv_bfloat16(x), __nv_bfloat16(x)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__nv_bfloat16(a), __nv_bfloat16(b)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; }
