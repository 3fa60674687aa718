// What an operator is: all that the kernels, on the CPU and on a GPU, know of a recurrence. linear.h has the linear one, and
// tests/operators has others. One is a template over operations `L` on numbers (product.h), or on vectors of them, one sequence
// a lane (native/lanes.h):
//
//   CoefficientLanes, StateLanes   how elements of `a`, and of x and h, become a Coefficient and a State: L so far
//   step(a, before, x)             the state after a step
//   Factor                         what steps do to a state before them, but for what they add: kParts coefficients, of which
//                                  what look-back publishes has room for two
//   factor(a), unit(), forget()    of one step; of none; of one that nothing enters: the state after it is x
//   compose(later, earlier)        of both; `later` may be the coefficient of one step
//   apply(factor, before, local)   the state after a stretch of steps, `local` being that from no state at all
//   nothing()                      no state at all
//   forgetting(), kForgets         whether there is a coefficient of which step(forgetting(), state, x) is x for all finite
//                                  states, and it
//   idle(), idle_input()           a step without effect; kIdleKeeps: it keeps even infinities, bit for bit
//   kChecked                       joining may overflow where single steps do not: then what is joined is relied on only below
//                                  bounds. size(factor) and size(state) are numbers such that
//                                  size(apply(f, s, l)) <= size(f) size(s) + size(l), size(compose(f, g)) <= size(f) size(g)
//
// and where it has a gradient (kDifferentiable)
//
//   adjoint(a, conjugated)         the coefficient of the walk back, the same as adjoint(conj(a), false) where it is conjugated
//   times(a, state)                what is left of a state after a step without input
//   outer(grad, before)            grad_a of a step, from grad_x and the state before it
//
// Elements of single numbers are operations too (Scalars, Single): what a vector does to a lane, bit for bit.
//
// An operator has no data, and its functions see one step, or one stretch of steps, of one sequence.
#pragma once
#include "product.h"

namespace scanlib {

// The base of an operator without a gradient. Backward kernels of it are not made, but a compiler for GPUs wants all that they
// would call.
template <class L>
struct WithoutGradient {
  static constexpr bool kDifferentiable = false;
  static SCANLIB_BOTH typename L::Vec adjoint(typename L::Vec a, bool) { return a; }
  static SCANLIB_BOTH typename L::Vec times(typename L::Vec, typename L::Vec state) { return state; }
  static SCANLIB_BOTH typename L::Vec outer(typename L::Vec grad, typename L::Vec) { return grad; }
};

}  // namespace scanlib
