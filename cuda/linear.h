// The operator of the linear recurrence: h_k = a_k h_{k-1} + x_k.
//
// Near 1 the numbers of a type are a fixed distance apart, so that the product of two decays 1 - d and 1 - e loses d * e to the
// same side each time. A rounded product of many steps is then applied to a state thousands of times, and the loss grows with
// them, where the steps of a serial loop round here up and there down. So a factor here is a product with what its rounding lost,
// high + low.
#pragma once
#include "operator.h"

namespace scanlib {

template <class L>
struct Linear {
  template <class M>
  using Over = Linear<M>;
  using CoefficientLanes = L;
  using StateLanes = L;
  using Coefficient = typename L::Vec;
  using State = typename L::Vec;
  using Element = typename L::Elem;  // the numbers that all of these consist of
  static constexpr int kParts = 2;
  struct Factor {
    Coefficient part[kParts];  // high, low
  };

  static SCANLIB_BOTH State step(Coefficient a, State before, State x) { return L::mul_add(a, before, x); }

  static SCANLIB_BOTH Factor factor(Coefficient a) { return {{a, L::number(0)}}; }
  static SCANLIB_BOTH Factor unit() { return {{L::number(1), L::number(0)}}; }
  static SCANLIB_BOTH Factor forget() { return {{L::number(0), L::number(0)}}; }
  static SCANLIB_BOTH Factor compose(Coefficient later, const Factor &earlier) {
    const Product<L> product = L::exact_product(later, earlier.part[0]);
    return {{product.high, L::mul_add(later, earlier.part[1], product.low)}};
  }
  static SCANLIB_BOTH Factor compose(const Factor &later, const Factor &earlier) {
    const Product<L> product = L::exact_product(later.part[0], earlier.part[0]);
    return {{product.high,
             L::mul_add(later.part[0], earlier.part[1], L::mul_add(later.part[1], earlier.part[0], product.low))}};
  }
  static SCANLIB_BOTH State apply(const Factor &factor, State before, State local) {
    return L::mul_add(factor.part[0], before, L::mul_add(factor.part[1], before, local));
  }

  static constexpr bool kForgets = true;
  static SCANLIB_BOTH Coefficient forgetting() { return L::number(0); }

  static SCANLIB_BOTH State nothing() { return L::number(0); }
  static SCANLIB_BOTH Coefficient idle() { return L::number(1); }
  static SCANLIB_BOTH State idle_input() { return L::number(-0.0); }  // which changes no real state, not even -0
  static constexpr bool kIdleKeeps = !IsComplex<Element>::value;      // 1 h + 0 has 0 times a part that may be infinite

  static constexpr bool kChecked = true;
  using Size = typename RealOf<Element>::type;
  static SCANLIB_BOTH Size size(const Factor &factor) { return size_of(factor.part[0]); }
  static SCANLIB_BOTH Size size(State state) { return size_of(state); }

  static constexpr bool kDifferentiable = true;
  static SCANLIB_BOTH Coefficient adjoint(Coefficient a, bool conjugated) { return conjugated ? L::conj(a) : a; }
  static SCANLIB_BOTH State times(Coefficient a, State state) { return L::mul(a, state); }
  static SCANLIB_BOTH Coefficient outer(State grad, State before) { return L::mul(grad, before); }
};

}  // namespace scanlib
