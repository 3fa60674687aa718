// The few operations on single elements that are needed outside the inner loops.
#pragma once
#include <cmath>

#include "kernels.h"
#include "scanlib.h"

namespace scanlib {

template <class R>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr int32_t dtype = SCANLIB_F32;
};
template <>
struct TypeOf<double> {
  static constexpr int32_t dtype = SCANLIB_F64;
};
template <>
struct TypeOf<Complex<float>> {
  static constexpr int32_t dtype = SCANLIB_C64;
};
template <>
struct TypeOf<Complex<double>> {
  static constexpr int32_t dtype = SCANLIB_C128;
};

template <class R>
R unit(R *) {
  return 1;
}
template <class R>
Complex<R> unit(Complex<R> *) {
  return {1, 0};
}
template <class R>
R not_a_number(R *) {
  return R(NAN);
}
template <class R>
Complex<R> not_a_number(Complex<R> *) {
  return {R(NAN), R(NAN)};
}
template <class R>
R mul_add(R a, R b, R c) {
  return a * b + c;
}
template <class R>
Complex<R> mul_add(Complex<R> a, Complex<R> b, Complex<R> c) {
  return {a.re * b.re - a.im * b.im + c.re, a.re * b.im + a.im * b.re + c.im};
}
template <class R>
R conjugated(R a) {
  return a;
}
template <class R>
Complex<R> conjugated(Complex<R> a) {
  return {a.re, -a.im};
}
template <class R>
bool finite(R a) {
  return std::isfinite(a);
}
template <class R>
bool finite(Complex<R> a) {
  return std::isfinite(a.re) && std::isfinite(a.im);
}
inline void add(double &sum, double value) { sum += value; }
inline void add(Complex<double> &sum, Complex<double> value) {
  sum.re += value.re;
  sum.im += value.im;
}

}  // namespace scanlib
