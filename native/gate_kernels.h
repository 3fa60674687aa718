// The inner loops of gates.h.
#pragma once
#include "activations.h"
#include "columns.h"
#include "gates.h"

namespace scanlib {
namespace {

// Calls body(place among gates, among states, in panels, lanes, whether it is cut) for every vector of a block. The last vector of a row overlaps
// the one before it where it can: what is computed twice has the same bits.
template <class L, class Body>
SCANLIB_INLINE void each_vector(const GateBlock &b, Body body) {
  int64_t panel = 0;
  for (int64_t k = 0; k < b.steps; ++k)
    for (int64_t r = 0; r < b.rows; ++r, panel += b.width) {
      const int64_t gate = k * b.gate_step + r * b.gate_row, state = k * b.state_step + r * b.width;
      const bool cut = b.cut(k, r);
      int64_t j = 0;
      for (; j + L::W <= b.width; j += L::W) body(gate + j, state + j, panel + j, L::W, cut);
      if (j == b.width) continue;
      if (b.width > L::W) {
        j = b.width - L::W;
        body(gate + j, state + j, panel + j, L::W, cut);
      } else {
        body(gate + j, state + j, panel + j, b.width - j, cut);
      }
    }
}

template <class T, class Candidate>
void open_gates_of(const GateBlock &block, const GateColumns<const T> &gates, T sign, T *decay, T *entering) {
  using L = RealLanes<T>;
  using A = Activations<T>;
  using V = typename L::Vec;
  const GateColumns<const T> from = gates;
  each_vector<L>(block, [=](int64_t gate, int64_t, int64_t panel, int64_t n, bool cut) SCANLIB_LAMBDA {
    const V f = GateStep<A>::decay(load_n<L>(from.decay + gate, n), L::all(sign));
    const V i = from.input ? A::sigmoid(load_n<L>(from.input + gate, n)) : L::all(1) - f;
    store_n<L>(decay + panel, cut ? V{} : f, n);
    store_n<L>(entering + panel, i * Candidate::template value<A>(load_n<L>(from.candidate + gate, n)), n);
  });
}

template <class T, class Candidate>
void open_gates_backward_of(const GateBlock &block, const GateColumns<const T> &gates, T sign, const T *decay,
                            const T *grad, const T *before, const GateColumns<T> &grad_gates) {
  using L = RealLanes<T>;
  using A = Activations<T>;
  using V = typename L::Vec;
  const GateColumns<const T> from = gates;
  const GateColumns<T> to = grad_gates;
  each_vector<L>(block, [=](int64_t gate, int64_t state, int64_t panel, int64_t n, bool cut) SCANLIB_LAMBDA {
    const V g = load_n<L>(grad + panel, n), all_sign = L::all(sign);
    const V v = load_n<L>(from.candidate + gate, n), z = Candidate::template value<A>(v);
    V f = load_n<L>(decay + panel, n), through = g * load_n<L>(before + state, n);
    if (cut) f = GateStep<A>::decay(load_n<L>(from.decay + gate, n), all_sign), through = V{};
    const V i = from.input ? A::sigmoid(load_n<L>(from.input + gate, n)) : L::all(1) - f;
    const V slope = Candidate::template slope<A>(v, z);
    const auto grads = GateStep<A>::columns(g, through, f, all_sign, from.input != nullptr, i, z, slope);
    if (from.input) store_n<L>(to.input + gate, grads.input, n);
    store_n<L>(to.decay + gate, grads.decay, n);
    store_n<L>(to.candidate + gate, grads.candidate, n);
  });
}

template <class T>
void open_gates(const GateBlock &block, const GateColumns<const T> &gates, int32_t candidate, T sign, T *decay,
                T *entering) {
  constexpr decltype(&open_gates_of<T, Identity>) kOf[] = {open_gates_of<T, Identity>, open_gates_of<T, Tanh>,
                                                           open_gates_of<T, Elu>, open_gates_of<T, Positive>};
  kOf[candidate](block, gates, sign, decay, entering);
}
template <class T>
void open_gates_backward(const GateBlock &block, const GateColumns<const T> &gates, int32_t candidate, T sign,
                         const T *decay, const T *grad, const T *before, const GateColumns<T> &grad_gates) {
  constexpr decltype(&open_gates_backward_of<T, Identity>) kOf[] = {
      open_gates_backward_of<T, Identity>, open_gates_backward_of<T, Tanh>, open_gates_backward_of<T, Elu>,
      open_gates_backward_of<T, Positive>};
  kOf[candidate](block, gates, sign, decay, grad, before, grad_gates);
}

template <class T>
void decay_gate(const GateBlock &block, const T *column, T sign, T *decay) {
  using L = RealLanes<T>;
  each_vector<L>(block, [=](int64_t gate, int64_t, int64_t panel, int64_t n, bool cut) SCANLIB_LAMBDA {
    const auto f = GateStep<Activations<T>>::decay(load_n<L>(column + gate, n), L::all(sign));
    store_n<L>(decay + panel, cut ? L::number(0) : f, n);
  });
}

template <class T>
void read_gate(const GateBlock &block, const T *output, const T *h, T *y) {
  using L = RealLanes<T>;
  each_vector<L>(block, [=](int64_t gate, int64_t state, int64_t, int64_t n, bool) SCANLIB_LAMBDA {
    const auto o = Activations<T>::sigmoid(load_n<L>(output + gate, n));
    store_n<L>(y + state, o * load_n<L>(h + state, n), n);
  });
}

template <class T>
void read_gate_backward(const GateBlock &block, const T *output, const T *h, const T *grad_y, T *grad_output,
                        T *grad_h) {
  using L = RealLanes<T>;
  each_vector<L>(block, [=](int64_t gate, int64_t state, int64_t panel, int64_t n, bool) SCANLIB_LAMBDA {
    const auto o = Activations<T>::sigmoid(load_n<L>(output + gate, n)), g = load_n<L>(grad_y + state, n);
    store_n<L>(grad_output + gate, GateStep<Activations<T>>::output(g, load_n<L>(h + state, n), o), n);
    store_n<L>(grad_h + panel, o * g, n);
  });
}

template <class T>
constexpr GateKernels<T> gate_table() {
  return {open_gates<T>, decay_gate<T>, read_gate<T>, read_gate_backward<T>, open_gates_backward<T>};
}

}  // namespace
}  // namespace scanlib
