// A product of two numbers in two parts: for the CPU's vectors and for device code alike.
//
// high is the product as it is rounded, low what rounding it lost (Dekker 1971; Ogita, Rump and Oishi 2005): exact for real
// numbers that do not overflow or get lost in subnormal ones.
//
// Numbers are what operations `L` work on, L::Vec, real or complex, and L::exact_product makes their products. RealLanes and
// ComplexLanes of native/lanes.h are such operations for the vectors of each instruction set, Scalars for single numbers.
#pragma once
#include "numbers.h"

namespace scanlib {

template <class L>
struct Product {
  typename L::Vec high, low;
};

// The same of complex numbers, from the operations R on their parts.
template <class R, class Pair>
struct ComplexProduct {
  using V = typename R::Vec;
  Pair high, low;

  SCANLIB_BOTH ComplexProduct(Pair a, Pair b) {
    add(R::exact_product(a.re, b.re), R::exact_product(-a.im, b.im), high.re, low.re);
    add(R::exact_product(a.re, b.im), R::exact_product(a.im, b.re), high.im, low.im);
  }

 private:
  // one + other, and what rounding it lost (Knuth).
  static SCANLIB_BOTH void add(const Product<R> &one, const Product<R> &other, V &high, V &low) {
    high = one.high + other.high;
    const V back = high - one.high;
    low = ((one.high - (high - back)) + (other.high - back)) + (one.low + other.low);
  }
};

// Single numbers as `L` wants them.
template <class T>
struct Scalars {
  using Elem = T;
  using Vec = T;
  static SCANLIB_BOTH T number(double value) { return T(value); }
  static SCANLIB_BOTH T conj(T a) { return a; }
  static SCANLIB_BOTH T mul(T a, T b) { return scanlib::mul(a, b); }
  static SCANLIB_BOTH T mul_add(T a, T b, T c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH Product<Scalars> exact_product(T a, T b) {
    const T high = rounded_product(a, b);
    return {high, fused(a, b, -high)};
  }
};
template <class R>
struct Scalars<Complex<R>> {
  using Elem = Complex<R>;
  using Vec = Complex<R>;
  static SCANLIB_BOTH Vec number(double value) { return {R(value), R(0)}; }
  static SCANLIB_BOTH Vec conj(Vec a) { return conjugated(a); }
  static SCANLIB_BOTH Vec mul(Vec a, Vec b) { return scanlib::mul(a, b); }
  static SCANLIB_BOTH Vec mul_add(Vec a, Vec b, Vec c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH Product<Scalars> exact_product(Vec a, Vec b) {
    const ComplexProduct<Scalars<R>, Vec> product(a, b);
    return {product.high, product.low};
  }
};

}  // namespace scanlib
