// Array elements and their values: six dtypes, converted into each other. Shared by the CPU core and device code.
//
// float16 and bfloat16 are rounded to nearest even, on bits alone where the machine has no instruction for it: the same
// everywhere but for the payload of a NaN.
#pragma once
#include "numbers.h"

#if !defined(__CUDACC__)
#include <cstring>
#endif

namespace scanlib {

struct Half {
  unsigned short bits;
};
struct Brain {
  unsigned short bits;
};

namespace {  // the CPU core compiles this once for each instruction set: never shared by the linker

#if defined(__CUDACC__)
SCANLIB_BOTH float from_bits(unsigned bits) { return __uint_as_float(bits); }
SCANLIB_BOTH unsigned to_bits(float value) { return __float_as_uint(value); }
SCANLIB_BOTH double from_bits(unsigned long long bits) { return __longlong_as_double((long long)bits); }
SCANLIB_BOTH unsigned long long to_bits(double value) { return (unsigned long long)__double_as_longlong(value); }
#else
SCANLIB_BOTH float from_bits(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
SCANLIB_BOTH unsigned to_bits(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
SCANLIB_BOTH double from_bits(unsigned long long bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}
SCANLIB_BOTH unsigned long long to_bits(double value) {
  unsigned long long bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}
#endif

SCANLIB_BOTH float widen_bfloat16(unsigned short h) { return from_bits(unsigned(h) << 16); }

SCANLIB_BOTH unsigned short narrow_bfloat16(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned short h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(value));
  return h;
#else
  unsigned bits = to_bits(value);
  unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  unsigned quiet = (bits >> 16) | 0x40u;  // a NaN stays one
  return (unsigned short)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
#endif
}

SCANLIB_BOTH float widen_float16(unsigned short h) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(h));
  return value;
#else
  unsigned sign = unsigned(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  // Normal numbers move their exponent from bias 15 to 127; subnormals are exact as a difference of two normals.
  float normal = from_bits((magnitude << 13) + (112u << 23));
  float subnormal = from_bits((113u << 23) + (magnitude << 13)) - from_bits(113u << 23);
  float special = from_bits((magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0u));
  float value = magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? subnormal : normal;
  return from_bits(to_bits(value) | sign);
#endif
}

SCANLIB_BOTH unsigned short narrow_float16(float value) {
#if defined(__CUDA_ARCH__)
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(value));
  return h;
#else
  unsigned bits = to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  unsigned normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14: adding 0.5 lines the float16 subnormal's last bit up with the float32's, rounding to nearest even.
  unsigned subnormal = to_bits(from_bits(magnitude) + 0.5f) - to_bits(0.5f);
  unsigned nan = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
  unsigned half = magnitude > 0x7f800000u    ? nan
                  : magnitude >= 0x47800000u ? 0x7c00u  // 65536 and above, before rounding up to it
                  : magnitude < 0x38800000u  ? subnormal
                                             : normal;
  return (unsigned short)(half | sign);
#endif
}

SCANLIB_BOTH float real(Half v) { return widen_float16(v.bits); }
SCANLIB_BOTH float real(Brain v) { return widen_bfloat16(v.bits); }
SCANLIB_BOTH float real(float v) { return v; }
SCANLIB_BOTH double real(double v) { return v; }
template <class R>
SCANLIB_BOTH R real(Complex<R> v) {
  return v.re;
}
template <class S>
SCANLIB_BOTH float imag(S) {
  return 0;
}
template <class R>
SCANLIB_BOTH R imag(Complex<R> v) {
  return v.im;
}

template <class R, class S>
SCANLIB_BOTH void put(R &to, S re, S) {
  to = R(re);
}
template <class S>
SCANLIB_BOTH void put(Half &to, S re, S) {
  to.bits = narrow_float16(float(re));
}
template <class S>
SCANLIB_BOTH void put(Brain &to, S re, S) {
  to.bits = narrow_bfloat16(float(re));
}
template <class R, class S>
SCANLIB_BOTH void put(Complex<R> &to, S re, S im) {
  to = {R(re), R(im)};
}
// The value of any element type as any other; complex to real keeps the real part.
template <class To, class From>
SCANLIB_BOTH void convert(To &to, From from) {
  auto re = real(from);
  put(to, re, decltype(re)(imag(from)));
}

}  // namespace
}  // namespace scanlib
