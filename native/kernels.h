// The tables of inner loops that each instruction set provides. kernels.cpp is compiled once for each.
//
// Inner loops work on the numbers of one operator alone (cuda/linear.h), always step through their operands in the order of the
// recurrence, and know nothing of threads, dtypes or broadcasting: run.h hands them memory that is already of that shape, the
// user's own where it fits, else a panel in cache that `widen` filled.
#pragma once
#include <cstdint>

#include "../cuda/linear.h"
#include "gates.h"

namespace scanlib {

constexpr int64_t kAlone = 0;  // in place of a number of rows

// How an operator's coefficients are taken: as they are, or on the walk back.
enum class Way { Forward, Back, BackConjugated };

// A row of lanes for each part of their factors.
template <class Op>
struct Factors {
  typename Op::Coefficient *part[Op::kParts];

  SCANLIB_BOTH Factors from(int64_t lane) const {
    Factors rest = *this;
    for (auto &each : rest.part) each += lane;
    return rest;
  }
};

// Steps that nothing enters: where a byte is not 0. None where `at` is null. Bytes lie beside the coefficients: from one step, lane or
// row to the next.
struct Mask {
  const char *at = nullptr;
  int64_t step = 0;  // of columns; the steps of rows are neighbours, as those of their coefficients are
  int64_t lane = 0;  // 0 or 1 in columns, any for rows
};

// Of an operator over single numbers.
template <class Op>
struct Kernels {
  using A = typename Op::Coefficient;
  using S = typename Op::State;

  // columns: `lanes` recurrences side by side, one row a step. Pointers are to the first step, strides go from one step to the
  // next. state[lanes] is the carry, in and out.
  //   forward   state = h = step(a, state, x)
  //   summary   factor = compose(a, factor), local = step(a, local, x): what a stretch of time does to any carry
  //   backward  state = grad_x = step(a, state, g), grad_a = outer(state, h)  (a one step ahead, h one step behind)
  // Where `mask` says that nothing enters a step, state = x whatever was before, and factor is Op::forget(); of backward it lies beside
  // a, and `behind` beside grad_a, which is 0 there.
  void (*columns_forward)(int64_t steps, int64_t lanes, const A *a, int64_t a_step, const S *x, int64_t x_step, S *h,
                          int64_t h_step, S *state, Mask mask);
  void (*columns_summary)(int64_t steps, int64_t lanes, const A *a, int64_t a_step, const S *x, int64_t x_step,
                          Factors<Op> factor, S *local, Way way, Mask mask);
  void (*columns_backward)(int64_t steps, int64_t lanes, const A *a, int64_t a_step, const S *g, int64_t g_step,
                           const S *h, int64_t h_step, S *grad_x, int64_t grad_x_step, A *grad_a, int64_t grad_a_step,
                           S *state, Way way, Mask mask, Mask behind);

  // rows: recurrences whose steps are contiguous in memory. Pointers are to the lowest address of the first; `down` runs from the
  // highest. One row (kAlone) is split over the lanes of a vector; several lie *_row apart and are walked side by side.
  void (*rows_forward)(int64_t steps, int64_t rows, const A *a, int64_t a_row, const S *x, int64_t x_row, S *h,
                       int64_t h_row, S *state, bool down, Mask mask);
  void (*rows_summary)(int64_t steps, const A *a, const S *x, Factors<Op> factor, S *local, bool down, Way way,
                       Mask mask);
  void (*rows_backward)(int64_t steps, int64_t rows, const A *a, int64_t a_row, const S *g, int64_t g_row, const S *h,
                        int64_t h_row, S *grad_x, int64_t grad_x_row, A *grad_a, int64_t grad_a_row, S *state,
                        bool down, Way way, Mask mask, Mask behind);
};

// What elements go through on their way to and from the kernels of any operator, T being what it computes in.
template <class T>
struct Conversions {
  using Sum = typename SumOf<T>::type;

  // sums[i] += values[step][i] over the steps, in their order; total: over a contiguous row.
  void (*sum_steps)(int64_t steps, int64_t lanes, const T *values, int64_t step, Sum *sums);
  Sum (*total)(int64_t n, const T *values);

  // n elements of a dtype at a stride in bytes (0 repeats one) to contiguous T, and contiguous T to a dtype at a stride; what is
  // not T may lie at any address. Indexed by scanlib_dtype. A complex T is narrowed to a real dtype by its real part.
  void (*widen[7])(int64_t n, const void *from, int64_t stride, T *to);
  void (*narrow[7])(int64_t n, const T *from, void *to, int64_t stride);
};

template <class T>
using LinearKernels = Kernels<Linear<Scalars<T>>>;

// Its tables are its bases, so that a reference to one of them can be had by its type alone.
struct InstructionSet : LinearKernels<float>,
                        LinearKernels<double>,
                        LinearKernels<Complex<float>>,
                        LinearKernels<Complex<double>>,
                        Conversions<float>,
                        Conversions<double>,
                        Conversions<Complex<float>>,
                        Conversions<Complex<double>>,
                        GateKernels<float>,
                        GateKernels<double> {
  const char *name;
};

// Those that this library holds, for the processor it is built for.
#if defined(__x86_64__)
extern const InstructionSet baseline, avx2, avx512;
#elif defined(__aarch64__)
extern const InstructionSet neon;
#else
extern const InstructionSet baseline;
#endif

}  // namespace scanlib
