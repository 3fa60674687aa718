// Lanes side by side, step by step: what the inner loops over columns share.
#pragma once
#include "lanes.h"

namespace scanlib {
namespace {

// Up to four vectors of lanes keep their states in registers; wider rows keep them in `state`, which stays in cache.

// Calls step(lane, load, store, state vector) for each vector of a row; the last may be partial.
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

// Runs body(state, pointer offsets) with `strips` vectors of state in registers over all steps.
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

template <class L, class Body>
SCANLIB_INLINE void walk_columns(int64_t steps, int64_t lanes, bool down, typename L::Elem *state, Body body) {
  int64_t full = lanes / L::W, part = lanes % L::W;
  switch (full + (part ? 1 : 0)) {
    case 1:
      return part ? in_registers<L, 1, true>(steps, part, state, body)
                  : in_registers<L, 1, false>(steps, 0, state, body);
    case 2:
      return part ? in_registers<L, 2, true>(steps, part, state, body)
                  : in_registers<L, 2, false>(steps, 0, state, body);
    case 3:
      return part ? in_registers<L, 3, true>(steps, part, state, body)
                  : in_registers<L, 3, false>(steps, 0, state, body);
    case 4:
      return part ? in_registers<L, 4, true>(steps, part, state, body)
                  : in_registers<L, 4, false>(steps, 0, state, body);
    default:
      for (int64_t k = 0; k < steps; ++k)
        for_lanes<L>(lanes, down, [&](int64_t lane, int64_t n) {
          store_n<L>(state + lane, body(k, lane, n, load_n<L>(state + lane, n)), n);
        });
  }
}

}  // namespace
}  // namespace scanlib
