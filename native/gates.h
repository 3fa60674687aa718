// The gates of a recurrent layer, on panels of a few thousand elements in cache: the table of inner loops that each instruction
// set provides, beside that of kernels.h.
#pragma once
#include <cstdint>

#include "../cuda/numbers.h"
#include "scanlib.h"

namespace scanlib {

// A block of a gated recurrence: `steps` steps of `rows` rows, each of `width` neighbouring units. Gates of a step lie
// `gate_step` apart and those of a row `gate_row`, states `state_step` apart and densely in a step; panels are dense.
struct GateBlock {
  int64_t steps, rows, width;
  int64_t gate_step, gate_row, state_step;
  const uint8_t *reset;  // of its first row; rows of a step lie side by side. Null where nothing is reset
  int64_t reset_step;

  SCANLIB_BOTH int64_t lanes() const { return rows * width; }
  // Whether a row takes nothing from the step before.
  SCANLIB_BOTH bool cut(int64_t step, int64_t row) const { return reset && reset[step * reset_step + row]; }
  // Its steps from `first` on.
  SCANLIB_BOTH GateBlock from(int64_t first) const {
    GateBlock rest = *this;
    rest.steps -= first;
    if (reset) rest.reset += first * reset_step;
    return rest;
  }
};

// The columns of one gate in a block, before any activation; null where there is no such gate.
template <class T>
struct GateColumns {
  T *decay, *input, *output, *candidate;
};

template <class T>
struct GateKernels {
  // decay = f, or 0 where a row is cut, and entering = i z, into panels. `sign` -1: f is the complement of what its column says.
  void (*open)(const GateBlock &block, const GateColumns<const T> &gates, int32_t candidate, T sign, T *decay,
               T *entering);
  // decay alone
  void (*decay)(const GateBlock &block, const T *column, T sign, T *decay);
  // y = o h
  void (*read)(const GateBlock &block, const T *output, const T *h, T *y);
  // grad_h = o grad_y into a panel, and the gradient of the output gate's column
  void (*read_backward)(const GateBlock &block, const T *output, const T *h, const T *grad_y, T *grad_output,
                        T *grad_h);
  // From grad, that of what enters, to the gradients of the columns. `before` is the state before each step.
  void (*open_backward)(const GateBlock &block, const GateColumns<const T> &gates, int32_t candidate, T sign,
                        const T *decay, const T *grad, const T *before, const GateColumns<T> &grad_gates);
};

// Runs a gated recurrence of some steps and units on the CPU; `data` by scanlib_role, checked.
int run_gated(const scanlib_problem &problem, void *const *data);

}  // namespace scanlib
