// The inner loops of an operator, for the instruction set of the file that includes this.
#pragma once
#include "kernels.h"
#include "rows.h"

namespace scanlib {
namespace {

template <template <class> class Operator, class T>
constexpr Kernels<Operator<Scalars<T>>> loops() {
  using Op = Operator<typename LanesOf<T>::type>;
  Kernels<Operator<Scalars<T>>> table{};
  table.columns_forward = columns_forward<Op>;
  table.columns_summary = columns_summary<Op>;
  table.rows_forward = rows_forward<Op>;
  table.rows_summary = rows_summary<Op>;
  if constexpr (Op::kDifferentiable) {
    table.columns_backward = columns_backward<Op>;
    table.rows_backward = rows_backward<Op>;
  }
  return table;
}

}  // namespace
}  // namespace scanlib
