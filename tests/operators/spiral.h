// h_k = A_k h_{k-1} + x_k with A = [[p, q], [-q, 1]], on vectors of two: the pairs (p, q), x and h are the parts of complex
// numbers. Products of such matrices have four numbers of their own, so that a factor is of another kind than a coefficient.
// For tests.
#pragma once
#include "../../cuda/operator.h"

namespace scanlib {

template <class L>
struct Spiral {
  template <class M>
  using Over = Spiral<M>;
  using CoefficientLanes = L;
  using StateLanes = L;
  using Coefficient = typename L::Vec;
  using State = typename L::Vec;
  using Element = typename L::Elem;
  static constexpr int kParts = 2;
  struct Factor {
    Coefficient part[kParts];  // the rows of a matrix
  };

  static SCANLIB_BOTH State step(Coefficient a, State before, State x) {
    return {a.re * before.re + a.im * before.im + x.re, before.im - a.im * before.re + x.im};
  }

  static SCANLIB_BOTH Factor factor(Coefficient a) { return compose(a, unit()); }
  static SCANLIB_BOTH Factor unit() {
    const Coefficient one = L::number(1);
    return {{one, {one.im, one.re}}};
  }
  static SCANLIB_BOTH Factor forget() { return {{L::number(0), L::number(0)}}; }
  static SCANLIB_BOTH Factor compose(Coefficient later, const Factor &earlier) {
    const Coefficient top = earlier.part[0], bottom = earlier.part[1];
    return {{{later.re * top.re + later.im * bottom.re, later.re * top.im + later.im * bottom.im},
             {bottom.re - later.im * top.re, bottom.im - later.im * top.im}}};
  }
  static SCANLIB_BOTH Factor compose(const Factor &later, const Factor &earlier) {
    return {{row_times(later.part[0], earlier), row_times(later.part[1], earlier)}};
  }
  static SCANLIB_BOTH State apply(const Factor &factor, State before, State local) {
    const Coefficient top = factor.part[0], bottom = factor.part[1];
    return {top.re * before.re + top.im * before.im + local.re,
            bottom.re * before.re + bottom.im * before.im + local.im};
  }

  static constexpr bool kForgets = false;

  static SCANLIB_BOTH State nothing() { return L::number(0); }
  static SCANLIB_BOTH Coefficient idle() { return L::number(1); }
  static SCANLIB_BOTH State idle_input() { return L::number(0); }
  static constexpr bool kIdleKeeps = false;

  static constexpr bool kChecked = true;
  using Size = typename RealOf<Element>::type;
  static SCANLIB_BOTH Size size(const Factor &factor) { return size_of(factor.part[0]) + size_of(factor.part[1]); }
  static SCANLIB_BOTH Size size(State state) { return size_of(state); }

  static constexpr bool kDifferentiable = true;
  // Transposed. Conjugating the pair has turned q around already.
  static SCANLIB_BOTH Coefficient adjoint(Coefficient a, bool conjugated) {
    const Coefficient transposed = {a.re, -a.im};
    return conjugated ? a : transposed;
  }
  static SCANLIB_BOTH State times(Coefficient a, State state) { return step(a, state, nothing()); }
  static SCANLIB_BOTH Coefficient outer(State grad, State before) {  // by p and by q
    return {grad.re * before.re, grad.re * before.im - grad.im * before.re};
  }

 private:
  static SCANLIB_BOTH Coefficient row_times(Coefficient row, const Factor &matrix) {
    const Coefficient top = matrix.part[0], bottom = matrix.part[1];
    return {row.re * top.re + row.im * bottom.re, row.re * top.im + row.im * bottom.im};
  }
};

}  // namespace scanlib
