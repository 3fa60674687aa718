// The few operations on single elements that are needed outside the inner loops, beside those of cuda/numbers.h.
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
R not_a_number(R *) {
  return R(NAN);
}
template <class R>
Complex<R> not_a_number(Complex<R> *) {
  return {R(NAN), R(NAN)};
}
template <class R>
bool finite(R a) {
  return std::isfinite(a);
}
template <class R>
bool finite(Complex<R> a) {
  return std::isfinite(a.re) && std::isfinite(a.im);
}

}  // namespace scanlib
