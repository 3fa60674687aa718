// The CPU entry points of the C interface: check what can be checked, choose the type to compute in, run.
#include <cstdio>

#include "dispatch.h"
#include "ieee.h"
#include "pointers.h"
#include "run.h"
#include "scanlib.h"

namespace scanlib {
namespace {

// The element offset, without time, of sequence `i`.
int64_t lane_offset(const scanlib_problem &p, const scanlib_layout &layout, int64_t i) {
  int64_t rest = i / p.inner, offset = (i % p.inner) * layout.inner;
  for (int d = p.outer_rank - 1; d >= 0; --d) {
    offset += (rest % p.outer[d]) * layout.outer[d];
    rest /= p.outer[d];
  }
  return offset;
}

// T = 0: the state passes through. No lanes at all: only sums over nothing are left to write.
int run_empty(const scanlib_problem &p, const Pointers &data) {
  const Kernels<Complex<double>> &kernels = instruction_set();
  bool backward = p.operand[SCANLIB_GRAD_H].dtype != SCANLIB_ABSENT;
  if (p.time == 0) {
    int from = backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0, to = backward ? SCANLIB_GRAD_H0 : SCANLIB_FINAL;
    const scanlib_layout &source = p.operand[from], &target = p.operand[to];
    const int64_t count = target.dtype != SCANLIB_ABSENT ? lane_count(p) : 0;
    for (int64_t i = 0; i < count; ++i) {
      Complex<double> value{0, 0};
      if (source.dtype != SCANLIB_ABSENT)
        kernels.widen[source.dtype](1, data.of[from] + lane_offset(p, source, i) * dtype_size(source.dtype), 1, &value);
      kernels.narrow[target.dtype](1, &value, data.of[to] + lane_offset(p, target, i) * dtype_size(target.dtype), 1);
    }
  }
  if (!backward) return SCANLIB_OK;
  // grad_a's elements along broadcast axes that are empty.
  const scanlib_layout &grad_a = p.operand[SCANLIB_GRAD_A];
  scanlib_problem own = p;
  if (grad_a.time == 0) own.time = 1;
  if (grad_a.inner == 0) own.inner = 1;
  for (int d = 0; d < p.outer_rank; ++d)
    if (grad_a.outer[d] == 0) own.outer[d] = 1;
  const Complex<double> zero{0, 0};
  for (int64_t i = 0, count = lane_count(own); i < count; ++i)
    for (int64_t t = 0; t < own.time; ++t) {
      int64_t at = lane_offset(own, grad_a, i) + t * grad_a.time;
      kernels.narrow[grad_a.dtype](1, &zero, data.of[SCANLIB_GRAD_A] + at * dtype_size(grad_a.dtype), 1);
    }
  return SCANLIB_OK;
}

template <class T>
int run_as(const scanlib_problem &p, const Pointers &data) {
  Schedule schedule = make_schedule(p, sizeof(T));
  return Run<T>(p, schedule, data).run();
}

// `needed` is the operand that tells forward from backward.
int run(const scanlib_problem *problem, scanlib_role needed, void **of) {
  if (!problem || problem->abi_version != SCANLIB_ABI_VERSION || problem->operand[needed].dtype == SCANLIB_ABSENT)
    return SCANLIB_E_ARGUMENT;
  const scanlib_problem &p = *problem;
  const bool empty = p.time == 0 || lane_count(p) == 0;
  if (int status = resolve_pointers(p, Alignment::Number, of)) return status;
  Pointers data;
  for (int role = 0; role < SCANLIB_ROLES; ++role) data.of[role] = static_cast<char *>(of[role]);
  IeeeArithmetic ieee;
  if (empty) return run_empty(p, data);
  switch (compute_dtype(p)) {
    case SCANLIB_F32:
      return run_as<float>(p, data);
    case SCANLIB_F64:
      return run_as<double>(p, data);
    case SCANLIB_C64:
      return run_as<Complex<float>>(p, data);
    default:
      return run_as<Complex<double>>(p, data);
  }
}

}  // namespace
}  // namespace scanlib

using namespace scanlib;

extern "C" int scanlib_cpu_forward(const scanlib_problem *problem, const void *a, const void *x, const void *h0,
                                   void *h, void *final_state) {
  void *of[SCANLIB_ROLES];
  forward_pointers(a, x, h0, h, final_state, of);
  return run(problem, SCANLIB_X, of);
}

extern "C" int scanlib_cpu_backward(const scanlib_problem *problem, const void *a, const void *h, const void *h0,
                                    const void *grad_h, const void *grad_final, void *grad_a, void *grad_x,
                                    void *grad_h0) {
  void *of[SCANLIB_ROLES];
  backward_pointers(a, h, h0, grad_h, grad_final, grad_a, grad_x, grad_h0, of);
  return run(problem, SCANLIB_GRAD_H, of);
}

extern "C" size_t scanlib_cpu_describe(const scanlib_problem *problem, char *buffer, size_t size) {
  if (!problem || problem->abi_version != SCANLIB_ABI_VERSION) return 0;
  const int32_t dtype = compute_dtype(*problem);
  Schedule s = make_schedule(*problem, dtype_size(dtype));
  static const char *const kNames[] = {"", "float16", "bfloat16", "float32", "float64", "complex64", "complex128"};
  int length = std::snprintf(
      buffer, size,
      "%s %s in %s, %s: %lld sequences of %lld steps in %lld groups of up to %lld, time in %lld segments of %lld",
      s.backward ? "backward" : "forward", s.rows ? "rows" : "columns", kNames[dtype], scanlib_cpu_isa(),
      (long long)lane_count(*problem), (long long)problem->time, (long long)s.groups, (long long)s.lanes,
      (long long)s.segments, (long long)s.segment);
  return length < 0 ? 0 : size_t(length);
}

extern "C" const char *scanlib_version(void) { return SCANLIB_VERSION; }
