// The inner loops over columns: lanes side by side, step by step.
#pragma once
#include "summary.h"

namespace scanlib {
namespace {

// Calls step(lane, lanes) for each vector of a row; the last may be partial.
template <class L, class Step>
SCANLIB_INLINE void for_lanes(int64_t lanes, bool down, Step step) {
  const int64_t full = lanes / L::W * L::W;
  if (down) {
    if (full < lanes) step(full, lanes - full);
    for (int64_t lane = full; (lane -= L::W) >= 0;) step(lane, L::W);
  } else {
    for (int64_t lane = 0; lane < full; lane += L::W) step(lane, L::W);
    if (full < lanes) step(full, lanes - full);
  }
}

template <class L>
SCANLIB_INLINE typename L::Vec load_n(const typename L::Elem *p, int64_t n) {
  return n == L::W ? L::load(p) : L::load_part(p, n, typename L::Elem{});
}
template <class L>
SCANLIB_INLINE typename L::Vec conjugated_if(bool yes, typename L::Vec v) {
  return yes ? L::conj(v) : v;
}
template <class L>
SCANLIB_INLINE void store_n(typename L::Elem *p, typename L::Vec v, int64_t n) {
  if (n == L::W)
    L::store(p, v);
  else
    L::store_part(p, v, n);
}

// What is kept of each lane from step to step, in memory between calls: a state.
template <class L>
struct KeptState {
  using Value = typename L::Vec;
  typename L::Elem *state;

  SCANLIB_INLINE Value load(int64_t lane, int64_t n) const { return load_n<L>(state + lane, n); }
  SCANLIB_INLINE void store(int64_t lane, int64_t n, Value value) const { store_n<L>(state + lane, value, n); }
};

// Runs body(step, lane, lanes, value) with `Strips` vectors of what is kept in registers over all steps.
template <class L, int Strips, bool Part, class Kept, class Body>
SCANLIB_INLINE void in_registers(int64_t steps, int64_t part, Kept kept, Body body) {
  typename Kept::Value v[Strips];
  for (int j = 0; j < Strips; ++j) v[j] = kept.load(j * L::W, Part && j == Strips - 1 ? part : L::W);
  for (int64_t k = 0; k < steps; ++k)
    for (int j = 0; j < Strips; ++j) {
      int64_t n = Part && j == Strips - 1 ? part : L::W;
      v[j] = body(k, int64_t(j) * L::W, n, v[j]);
    }
  for (int j = 0; j < Strips; ++j) kept.store(j * L::W, Part && j == Strips - 1 ? part : L::W, v[j]);
}

template <class L, int Strips, class Kept, class Body>
SCANLIB_INLINE void in_registers(int64_t steps, int64_t part, Kept kept, Body body) {
  return part ? in_registers<L, Strips, true>(steps, part, kept, body)
              : in_registers<L, Strips, false>(steps, 0, kept, body);
}

// value = body(step, lane, lanes, value) for each vector of a row, over all steps. Up to four vectors of lanes are kept in
// registers; wider rows in memory, which stays in cache.
template <class L, class Kept, class Body>
SCANLIB_INLINE void walk_columns(int64_t steps, int64_t lanes, bool down, Kept kept, Body body) {
  const int64_t part = lanes % L::W;
  switch (lanes / L::W + (part ? 1 : 0)) {
    case 1:
      return in_registers<L, 1>(steps, part, kept, body);
    case 2:
      return in_registers<L, 2>(steps, part, kept, body);
    case 3:
      return in_registers<L, 3>(steps, part, kept, body);
    case 4:
      return in_registers<L, 4>(steps, part, kept, body);
    default:
      for (int64_t k = 0; k < steps; ++k)
        for_lanes<L>(lanes, down,
                     [&](int64_t lane, int64_t n) { kept.store(lane, n, body(k, lane, n, kept.load(lane, n))); });
  }
}

// ---------------------------------------------------------------------------------------------------------- an operator's

template <class Op>
using ElementA = typename Op::CoefficientLanes::Elem;
template <class Op>
using ElementS = typename Op::StateLanes::Elem;
// The operator over single numbers, as it is called by.
template <class Op>
using Singly = typename Op::template Over<Scalars<typename Op::Element>>;

// `cut` where a mask says so of a step of some lanes.
template <class L>
SCANLIB_INLINE typename L::Vec cut_off(const Mask &mask, int64_t k, int64_t lane, int64_t n, typename L::Vec cut,
                                       typename L::Vec otherwise) {
  const char *const at = mask.at + k * mask.step;
  if (mask.lane) return L::chosen(at + lane, n, cut, otherwise);
  // Rare, and so cheaper to jump to than to wait for at each step.
  return __builtin_expect(*at != 0, 0) ? cut : otherwise;
}

template <class Op, bool kMasked>
SCANLIB_INLINE void columns_forward_masked(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step,
                                           const ElementS<Op> *x, int64_t x_step, ElementS<Op> *h, int64_t h_step,
                                           ElementS<Op> *state, Mask mask) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  walk_columns<S>(steps, lanes, x_step < 0, KeptState<S>{state},
                  [=](int64_t k, int64_t lane, int64_t n, typename Op::State s) SCANLIB_LAMBDA {
                    const auto enters = load_n<S>(x + k * x_step + lane, n);
                    s = Op::step(load_n<A>(a + k * a_step + lane, n), s, enters);
                    if constexpr (kMasked) s = cut_off<S>(mask, k, lane, n, enters, s);
                    store_n<S>(h + k * h_step + lane, s, n);
                    return s;
                  });
}
template <class Op>
void columns_forward(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step, const ElementS<Op> *x,
                     int64_t x_step, ElementS<Op> *h, int64_t h_step, ElementS<Op> *state, Mask mask) {
  if (mask.at) return columns_forward_masked<Op, true>(steps, lanes, a, a_step, x, x_step, h, h_step, state, mask);
  columns_forward_masked<Op, false>(steps, lanes, a, a_step, x, x_step, h, h_step, state, mask);
}

template <class Op>
struct KeptSummary {
  using Value = Summary<Op>;
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  Factors<Singly<Op>> factor;
  typename S::Elem *local;

  SCANLIB_INLINE Value load(int64_t lane, int64_t n) const {
    Value value;
    for (int i = 0; i < Op::kParts; ++i) value.factor.part[i] = load_n<A>(factor.part[i] + lane, n);
    value.local = load_n<S>(local + lane, n);
    return value;
  }
  SCANLIB_INLINE void store(int64_t lane, int64_t n, const Value &value) const {
    for (int i = 0; i < Op::kParts; ++i) store_n<A>(factor.part[i] + lane, value.factor.part[i], n);
    store_n<S>(local + lane, value.local, n);
  }
};

template <class Op, bool kMasked>
SCANLIB_INLINE void columns_summary_masked(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step,
                                           const ElementS<Op> *x, int64_t x_step, Factors<Singly<Op>> factor,
                                           ElementS<Op> *local, Way way, Mask mask) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  walk_columns<S>(steps, lanes, x_step < 0, KeptSummary<Op>{factor, local},
                  [=](int64_t k, int64_t lane, int64_t n, const Summary<Op> &before) SCANLIB_LAMBDA {
                    const auto enters = load_n<S>(x + k * x_step + lane, n);
                    Summary<Op> after =
                        joined<Op>(before, on_way<Op>(way, load_n<A>(a + k * a_step + lane, n)), enters);
                    if constexpr (kMasked) {
                      const auto forgets = Op::forget();
                      for (int i = 0; i < Op::kParts; ++i)
                        after.factor.part[i] = cut_off<A>(mask, k, lane, n, forgets.part[i], after.factor.part[i]);
                      after.local = cut_off<S>(mask, k, lane, n, enters, after.local);
                    }
                    return after;
                  });
}
template <class Op>
void columns_summary(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step, const ElementS<Op> *x,
                     int64_t x_step, Factors<Singly<Op>> factor, ElementS<Op> *local, Way way, Mask mask) {
  if (mask.at) return columns_summary_masked<Op, true>(steps, lanes, a, a_step, x, x_step, factor, local, way, mask);
  columns_summary_masked<Op, false>(steps, lanes, a, a_step, x, x_step, factor, local, way, mask);
}

template <class Op, bool kMasked>
SCANLIB_INLINE void columns_backward_masked(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step,
                                            const ElementS<Op> *g, int64_t g_step, const ElementS<Op> *h,
                                            int64_t h_step, ElementS<Op> *grad_x, int64_t grad_x_step,
                                            ElementA<Op> *grad_a, int64_t grad_a_step, ElementS<Op> *state, Way way,
                                            Mask mask, Mask behind) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  walk_columns<S>(steps, lanes, g_step < 0, KeptState<S>{state},
                  [=](int64_t k, int64_t lane, int64_t n, typename Op::State s) SCANLIB_LAMBDA {
                    const auto factor = on_way<Op>(way, load_n<A>(a + k * a_step + lane, n));
                    const auto enters = load_n<S>(g + k * g_step + lane, n);
                    s = Op::step(factor, s, enters);
                    if (kMasked && mask.at) s = cut_off<S>(mask, k, lane, n, enters, s);
                    store_n<S>(grad_x + k * grad_x_step + lane, s, n);
                    const auto before =
                        conjugated_if<S>(way == Way::BackConjugated, load_n<S>(h + k * h_step + lane, n));
                    auto product = Op::outer(s, before);
                    if (kMasked && behind.at) product = cut_off<A>(behind, k, lane, n, A::number(0), product);
                    store_n<A>(grad_a + k * grad_a_step + lane, product, n);
                    return s;
                  });
}
template <class Op>
void columns_backward(int64_t steps, int64_t lanes, const ElementA<Op> *a, int64_t a_step, const ElementS<Op> *g,
                      int64_t g_step, const ElementS<Op> *h, int64_t h_step, ElementS<Op> *grad_x, int64_t grad_x_step,
                      ElementA<Op> *grad_a, int64_t grad_a_step, ElementS<Op> *state, Way way, Mask mask, Mask behind) {
  if (mask.at || behind.at)
    return columns_backward_masked<Op, true>(steps, lanes, a, a_step, g, g_step, h, h_step, grad_x, grad_x_step, grad_a,
                                             grad_a_step, state, way, mask, behind);
  columns_backward_masked<Op, false>(steps, lanes, a, a_step, g, g_step, h, h_step, grad_x, grad_x_step, grad_a,
                                     grad_a_step, state, way, mask, behind);
}

}  // namespace
}  // namespace scanlib
