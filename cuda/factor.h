// A product of decays in two parts, and what it does to a state: for the CPU's vectors and for device code alike.
//
// Near 1 the numbers of a type are a fixed distance apart, so that the product of two decays 1 - d and 1 - e loses d * e to the
// same side each time. A rounded product of many steps is then applied to a state thousands of times, and the loss grows with
// them, where the steps of a serial loop round here up and there down. So a product keeps what its rounding lost: the
// factor is high + low, with low from an exact product of two numbers (Dekker 1971; Ogita, Rump and Oishi 2005).
//
// Written over operations `L` on `L::Vec`, real or complex: exact_product and mul_add. RealLanes and ComplexLanes of
// native/lanes.h have them for the vectors of each instruction set, Scalars has them for single numbers.
#pragma once
#include "numbers.h"

namespace scanlib {

template <class L>
struct Factor {
  typename L::Vec high, low;
};

// L::exact_product(a, b): a * b as a factor, exact for real numbers that do not overflow or get lost in subnormal ones.

// One decay after a product; two products.
template <class L>
SCANLIB_BOTH Factor<L> after(typename L::Vec later, const Factor<L> &earlier) {
  const Factor<L> product = L::exact_product(later, earlier.high);
  return {product.high, L::mul_add(later, earlier.low, product.low)};
}
template <class L>
SCANLIB_BOTH Factor<L> after(const Factor<L> &later, const Factor<L> &earlier) {
  const Factor<L> product = L::exact_product(later.high, earlier.high);
  return {product.high, L::mul_add(later.high, earlier.low, L::mul_add(later.low, earlier.high, product.low))};
}

// factor * state + local
template <class L>
SCANLIB_BOTH typename L::Vec applied(const Factor<L> &factor, typename L::Vec state, typename L::Vec local) {
  return L::mul_add(factor.high, state, L::mul_add(factor.low, state, local));
}

// The same product of complex numbers, from the operations R on their parts.
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
  static SCANLIB_BOTH void add(const Factor<R> &one, const Factor<R> &other, V &high, V &low) {
    high = one.high + other.high;
    const V back = high - one.high;
    low = ((one.high - (high - back)) + (other.high - back)) + (one.low + other.low);
  }
};

// Single numbers as `L` wants them.
template <class T>
struct Scalars {
  using Vec = T;
  static SCANLIB_BOTH T mul_add(T a, T b, T c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH Factor<Scalars> exact_product(T a, T b) {
    const T high = rounded_product(a, b);
    return {high, fused(a, b, -high)};
  }
};
template <class R>
struct Scalars<Complex<R>> {
  using Vec = Complex<R>;
  static SCANLIB_BOTH Vec mul_add(Vec a, Vec b, Vec c) { return scanlib::mul_add(a, b, c); }
  static SCANLIB_BOTH Factor<Scalars> exact_product(Vec a, Vec b) {
    const ComplexProduct<Scalars<R>, Vec> product(a, b);
    return {product.high, product.low};
  }
};

}  // namespace scanlib
