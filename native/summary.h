// What a stretch of steps does to the state before it, in each lane of a vector: of the operators of cuda/linear.h.
#pragma once
#include "lanes.h"

namespace scanlib {
namespace {

template <class Op>
struct Summary {
  typename Op::Factor factor;
  typename Op::State local;
};

template <class Op>
SCANLIB_INLINE Summary<Op> one_step(typename Op::Coefficient a, typename Op::State x) {
  return {Op::factor(a), x};
}

// `first` and then a step; and then `second`.
template <class Op>
SCANLIB_INLINE Summary<Op> joined(const Summary<Op> &first, typename Op::Coefficient a, typename Op::State x) {
  return {Op::compose(a, first.factor), Op::step(a, first.local, x)};
}
template <class Op>
SCANLIB_INLINE Summary<Op> joined(const Summary<Op> &first, const Summary<Op> &second) {
  return {Op::compose(second.factor, first.factor), Op::apply(second.factor, first.local, second.local)};
}
template <class Op>
SCANLIB_INLINE typename Op::State applied(const Summary<Op> &summary, typename Op::State before) {
  return Op::apply(summary.factor, before, summary.local);
}

template <class Op, class Pick>
SCANLIB_INLINE Summary<Op> picked(const Summary<Op> &one, const Summary<Op> &other) {
  Summary<Op> both;
  for (int i = 0; i < Op::kParts; ++i)
    both.factor.part[i] = Op::CoefficientLanes::template pick<Pick>(one.factor.part[i], other.factor.part[i]);
  both.local = Op::StateLanes::template pick<Pick>(one.local, other.local);
  return both;
}

// Each lane joined with all before it.
template <class Op, int K = 1>
SCANLIB_INLINE Summary<Op> scan_lanes(const Summary<Op> &v) {
  constexpr int W = Op::StateLanes::W;
  const Summary<Op> none = {Op::unit(), Op::nothing()};
  const Summary<Op> both = joined<Op>(picked<Op, ShiftPick<W, K>>(v, none), v);
  if constexpr (2 * K < W)
    return scan_lanes<Op, 2 * K>(both);
  else
    return both;
}

// The coefficient as a walk takes it.
template <class Op>
SCANLIB_INLINE typename Op::Coefficient on_way(Way way, typename Op::Coefficient a) {
  if constexpr (Op::kDifferentiable)
    return way == Way::Forward ? a : Op::adjoint(a, way == Way::BackConjugated);
  else
    return a;
}

}  // namespace
}  // namespace scanlib
