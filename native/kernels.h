// The table of inner loops that each instruction set provides. kernels.cpp is compiled once for each.
//
// Inner loops work on the accumulation type T alone (float, double or complex of them), always step through their operands in
// the order of the recurrence, and know nothing of threads, dtypes or broadcasting: cpu.cpp hands them memory that is
// already of that shape, the user's own where it fits, else a panel in cache that `widen` filled.
#pragma once
#include <cstdint>

#include "../cuda/numbers.h"
#include "gates.h"

namespace scanlib {

constexpr int64_t kAlone = 0;  // in place of a number of rows

template <class T>
struct Kernels {
  using Sum = typename SumOf<T>::type;

  // columns: `lanes` recurrences side by side, one row a step. Pointers are to the first step, strides go from one step to the
  // next. state[lanes] is the carry, in and out.
  //   forward   state = h = a * state + x
  //   summary   product *= a, state = a * state + x: what a stretch of time does to any carry; what rounding the product
  //             lost is kept in `lost` (cuda/factor.h)
  //   backward  state = grad_x = a * state + g, grad_a = state * h     (a one step ahead, h one step behind)
  void (*columns_forward)(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *x, int64_t x_step, T *h,
                          int64_t h_step, T *state);
  void (*columns_summary)(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *x, int64_t x_step,
                          T *product, T *lost, T *state, bool conjugate);
  void (*columns_backward)(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *g, int64_t g_step,
                           const T *h, int64_t h_step, T *grad_x, int64_t grad_x_step, T *grad_a, int64_t grad_a_step,
                           T *state, bool conjugate);

  // rows: recurrences whose steps are contiguous in memory. Pointers are to the lowest address of the first; `down` runs from the
  // highest. One row (kAlone) is split over the lanes of a vector; several lie *_row apart and are walked side by side.
  void (*rows_forward)(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *x, int64_t x_row, T *h,
                       int64_t h_row, T *state, bool down);
  void (*rows_summary)(int64_t steps, const T *a, const T *x, T *product, T *lost, T *state, bool down, bool conjugate);
  void (*rows_backward)(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *g, int64_t g_row, const T *h,
                        int64_t h_row, T *grad_x, int64_t grad_x_row, T *grad_a, int64_t grad_a_row, T *state,
                        bool down, bool conjugate);

  // sums[i] += values[step][i] over the steps, in their order; total: over a contiguous row.
  void (*sum_steps)(int64_t steps, int64_t lanes, const T *values, int64_t step, Sum *sums);
  Sum (*total)(int64_t n, const T *values);

  // n elements of a dtype at a stride in bytes (0 repeats one) to contiguous T, and contiguous T to a dtype at a stride; what is
  // not T may lie at any address. Indexed by scanlib_dtype. A complex T is narrowed to a real dtype by its real part.
  void (*widen[7])(int64_t n, const void *from, int64_t stride, T *to);
  void (*narrow[7])(int64_t n, const T *from, void *to, int64_t stride);
};

// Its tables are its bases, so that a reference to one of them can be had by its type alone.
struct InstructionSet : Kernels<float>,
                        Kernels<double>,
                        Kernels<Complex<float>>,
                        Kernels<Complex<double>>,
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
