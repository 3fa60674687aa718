// The numbers a recurrence is computed in and the operations on them, for the CPU core and for device code alike. No headers:
// NVRTC has none.
#pragma once

#if defined(__CUDACC__)
#define SCANLIB_BOTH __device__ __forceinline__
#else
#define SCANLIB_BOTH inline __attribute__((always_inline))  // never shared between instruction sets
#endif

namespace scanlib {

template <class R>
struct Complex {
  R re, im;
};

template <class T>
struct IsComplex {
  static constexpr bool value = false;
};
template <class R>
struct IsComplex<Complex<R>> {
  static constexpr bool value = true;
};
template <class T>
struct RealOf {
  using type = T;
};
template <class R>
struct RealOf<Complex<R>> {
  using type = R;
};

// The type that sums over many elements are kept in.
template <class T>
struct SumOf {
  using type = double;
};
template <class R>
struct SumOf<Complex<R>> {
  using type = Complex<double>;
};

template <class R>
SCANLIB_BOTH R mul_add(R a, R b, R c) {
  return a * b + c;
}
template <class R>
SCANLIB_BOTH Complex<R> mul_add(Complex<R> a, Complex<R> b, Complex<R> c) {
  return {a.re * b.re - a.im * b.im + c.re, a.re * b.im + a.im * b.re + c.im};
}
// a * b + c rounded once, and a * b rounded by itself, whatever the compiler contracts around it.
#if defined(__CUDACC__)
SCANLIB_BOTH float fused(float a, float b, float c) { return fmaf(a, b, c); }
SCANLIB_BOTH double fused(double a, double b, double c) { return fma(a, b, c); }
SCANLIB_BOTH float rounded_product(float a, float b) { return __fmul_rn(a, b); }
SCANLIB_BOTH double rounded_product(double a, double b) { return __dmul_rn(a, b); }
SCANLIB_BOTH double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
#else
SCANLIB_BOTH float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SCANLIB_BOTH double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
SCANLIB_BOTH float rounded_product(float a, float b) { return a * b; }
SCANLIB_BOTH double rounded_product(double a, double b) { return a * b; }
SCANLIB_BOTH double infinity() { return __builtin_huge_val(); }
#endif
// Sizes, such that size(a * b) <= size(a) * size(b) and no step of that product overflows before it does.
#if defined(__CUDACC__)
SCANLIB_BOTH float size_of(float a) { return fabsf(a); }
SCANLIB_BOTH double size_of(double a) { return fabs(a); }
#else
SCANLIB_BOTH float size_of(float a) { return __builtin_fabsf(a); }
SCANLIB_BOTH double size_of(double a) { return __builtin_fabs(a); }
#endif
template <class R>
SCANLIB_BOTH R size_of(Complex<R> a) {
  return size_of(a.re) + size_of(a.im);
}
template <class R>
SCANLIB_BOTH R plus(R a, R b) {
  return a + b;
}
template <class R>
SCANLIB_BOTH Complex<R> plus(Complex<R> a, Complex<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class R>
SCANLIB_BOTH R mul(R a, R b) {
  return a * b;
}
template <class R>
SCANLIB_BOTH Complex<R> mul(Complex<R> a, Complex<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class R>
SCANLIB_BOTH R conjugated(R a) {
  return a;
}
template <class R>
SCANLIB_BOTH Complex<R> conjugated(Complex<R> a) {
  return {a.re, -a.im};
}
SCANLIB_BOTH void add(double &sum, double value) { sum += value; }
SCANLIB_BOTH void add(Complex<double> &sum, Complex<double> value) {
  sum.re += value.re;
  sum.im += value.im;
}

}  // namespace scanlib
