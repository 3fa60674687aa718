// Lanes side by side, step by step: what the inner loops over columns share.
#pragma once
#include "lanes.h"

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
  return n == L::W ? L::load(p) : L::load_part(p, n, L::zero());
}
template <class L>
SCANLIB_INLINE void store_n(typename L::Elem *p, typename L::Vec v, int64_t n) {
  if (n == L::W)
    L::store(p, v);
  else
    L::store_part(p, v, n);
}

// Runs body(step, lane, lanes, state) with `Strips` vectors of state in registers over all steps.
template <class L, int Strips, bool Part, class Body>
SCANLIB_INLINE void in_registers(int64_t steps, int64_t part, typename L::Elem *state, Body body) {
  typename L::Vec s[Strips];
  for (int j = 0; j < Strips; ++j) s[j] = load_n<L>(state + j * L::W, Part && j == Strips - 1 ? part : L::W);
  for (int64_t k = 0; k < steps; ++k)
    for (int j = 0; j < Strips; ++j) {
      int64_t n = Part && j == Strips - 1 ? part : L::W;
      s[j] = body(k, int64_t(j) * L::W, n, s[j]);
    }
  for (int j = 0; j < Strips; ++j) store_n<L>(state + j * L::W, s[j], Part && j == Strips - 1 ? part : L::W);
}

template <class L, int Strips, class Body>
SCANLIB_INLINE void in_registers(int64_t steps, int64_t part, typename L::Elem *state, Body body) {
  return part ? in_registers<L, Strips, true>(steps, part, state, body)
              : in_registers<L, Strips, false>(steps, 0, state, body);
}

// state = body(step, lane, lanes, state) for each vector of a row, over all steps. Up to four vectors of lanes keep their states
// in registers; wider rows keep them in `state`, which stays in cache.
template <class L, class Body>
SCANLIB_INLINE void walk_columns(int64_t steps, int64_t lanes, bool down, typename L::Elem *state, Body body) {
  const int64_t part = lanes % L::W;
  switch (lanes / L::W + (part ? 1 : 0)) {
    case 1:
      return in_registers<L, 1>(steps, part, state, body);
    case 2:
      return in_registers<L, 2>(steps, part, state, body);
    case 3:
      return in_registers<L, 3>(steps, part, state, body);
    case 4:
      return in_registers<L, 4>(steps, part, state, body);
    default:
      for (int64_t k = 0; k < steps; ++k)
        for_lanes<L>(lanes, down, [&](int64_t lane, int64_t n) {
          store_n<L>(state + lane, body(k, lane, n, load_n<L>(state + lane, n)), n);
        });
  }
}

}  // namespace
}  // namespace scanlib
