// A product of decays in two parts, and what it does to a state: for the CPU's vectors and for device code alike.
//
// Near 1 the numbers of a type are a fixed distance apart, so that the product of two decays 1 - d and 1 - e loses d * e to the
// same side each time. A rounded product of many steps is then applied to a state thousands of times, and the loss grows with
// them, where the steps of a serial loop round here up and there down. So a product keeps what its rounding lost: the
// factor is high + low, with low from an exact product of two numbers (Dekker 1971; Ogita, Rump and Oishi 2005).
//
// Written over operations `L` on `L::Vec`, real or complex: mul, mul_add, product_error. RealLanes and ComplexLanes of
// native/lanes.h have them for the vectors of each instruction set, Scalars has them for single numbers.
#pragma once
#include "numbers.h"

namespace scanlib {

template <class L>
struct Factor {
  typename L::Vec high, low;
};

// One decay after another; after a product; two products.
template <class L>
SCANLIB_BOTH Factor<L> after(typename L::Vec later, typename L::Vec earlier) {
  const auto high = L::mul(later, earlier);
  return {high, L::product_error(later, earlier, high)};
}
template <class L>
SCANLIB_BOTH Factor<L> after(typename L::Vec later, const Factor<L> &earlier) {
  const auto high = L::mul(later, earlier.high);
  return {high, L::mul_add(later, earlier.low, L::product_error(later, earlier.high, high))};
}
template <class L>
SCANLIB_BOTH Factor<L> after(const Factor<L> &later, const Factor<L> &earlier) {
  const auto high = L::mul(later.high, earlier.high);
  const auto error = L::product_error(later.high, earlier.high, high);
  return {high, L::mul_add(later.high, earlier.low, L::mul_add(later.low, earlier.high, error))};
}

// factor * state + local
template <class L>
SCANLIB_BOTH typename L::Vec applied(const Factor<L> &factor, typename L::Vec state, typename L::Vec local) {
  return L::mul_add(factor.high, state, L::mul_add(factor.low, state, local));
}

// a * b - product of complex numbers, where `product` is their rounded product, from the operations R on their parts.
template <class R, class Pair>
SCANLIB_BOTH Pair complex_product_error(Pair a, Pair b, Pair product) {
  using V = typename R::Vec;
  struct Sum {  // one + other, and what rounding it lost (Knuth)
    V high, low;
    SCANLIB_BOTH Sum(V one, V other) : high(one + other) {
      const V back = high - one;
      low = (one - (high - back)) + (other - back);
    }
  };
  const V rr = R::mul(a.re, b.re), ii = R::mul(-a.im, b.im), ri = R::mul(a.re, b.im), ir = R::mul(a.im, b.re);
  const Sum re(rr, ii), im(ri, ir);
  return {(re.high - product.re) + (re.low + (R::product_error(a.re, b.re, rr) + R::product_error(-a.im, b.im, ii))),
          (im.high - product.im) + (im.low + (R::product_error(a.re, b.im, ri) + R::product_error(a.im, b.re, ir)))};
}

// Single numbers as `L` wants them.
template <class T>
struct Scalars {
  using Vec = T;
  static SCANLIB_BOTH T mul(T a, T b) { return rounded_product(a, b); }
  static SCANLIB_BOTH T mul_add(T a, T b, T c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH T product_error(T a, T b, T product) { return fused(a, b, -product); }
};
template <class R>
struct Scalars<Complex<R>> {
  using Vec = Complex<R>;
  static SCANLIB_BOTH Vec mul(Vec a, Vec b) { return scanlib::mul(a, b); }
  static SCANLIB_BOTH Vec mul_add(Vec a, Vec b, Vec c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH Vec product_error(Vec a, Vec b, Vec product) {
    return complex_product_error<Scalars<R>>(a, b, product);
  }
};

}  // namespace scanlib
