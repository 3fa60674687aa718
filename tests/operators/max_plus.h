// h_k = max(a_k + h_{k-1}, x_k): the longest path so far (Viterbi 1967), an operator that is not linear. For tests.
#pragma once
#include "../../cuda/operator.h"

namespace scanlib {

template <class L>
struct MaxPlus : WithoutGradient<L> {
  template <class M>
  using Over = MaxPlus<M>;
  using CoefficientLanes = L;
  using StateLanes = L;
  using Coefficient = typename L::Vec;
  using State = typename L::Vec;
  using Element = typename L::Elem;
  static constexpr int kParts = 1;
  struct Factor {
    Coefficient part[kParts];
  };

  static SCANLIB_BOTH State step(Coefficient a, State before, State x) { return greatest(a + before, x); }

  static SCANLIB_BOTH Factor factor(Coefficient a) { return {{a}}; }
  static SCANLIB_BOTH Factor unit() { return {{idle()}}; }
  static SCANLIB_BOTH Factor forget() { return {{nothing()}}; }
  static SCANLIB_BOTH Factor compose(Coefficient later, const Factor &earlier) { return {{later + earlier.part[0]}}; }
  static SCANLIB_BOTH Factor compose(const Factor &later, const Factor &earlier) {
    return compose(later.part[0], earlier);
  }
  static SCANLIB_BOTH State apply(const Factor &factor, State before, State local) {
    return step(factor.part[0], before, local);
  }

  static constexpr bool kForgets = false;

  static SCANLIB_BOTH State nothing() { return L::number(-infinity()); }
  static SCANLIB_BOTH Coefficient idle() { return L::number(0); }
  static SCANLIB_BOTH State idle_input() { return nothing(); }
  static constexpr bool kIdleKeeps = true;

  static constexpr bool kChecked = false;  // for sums that do not overflow

 private:
  static SCANLIB_BOTH State greatest(State one, State other) { return one > other ? one : other; }
};

}  // namespace scanlib
