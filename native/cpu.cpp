// The CPU entry points of the C interface: check what can be checked, choose the type to compute in, run.
#include <cstdio>

#include "dispatch.h"
#include "gates.h"
#include "ieee.h"
#include "pointers.h"
#include "run.h"
#include "scanlib.h"

namespace scanlib {
namespace {

// The offset in bytes, without time, of sequence `i` in an operand.
int64_t lane_offset(const scanlib_problem &p, int role, int64_t i) {
  int64_t rest = i / p.inner.extent, offset = (i % p.inner.extent) * p.inner.stride[role];
  for (int d = p.outer_rank - 1; d >= 0; --d) {
    offset += (rest % p.outer[d].extent) * p.outer[d].stride[role];
    rest /= p.outer[d].extent;
  }
  return offset;
}

// T = 0: states pass through. No lanes at all: only sums over nothing are left to write.
int run_empty(const scanlib_problem &p, const Pointers &data) {
  const Conversions<Complex<double>> &convert = instruction_set();
  const bool backward = is_backward(p);
  if (p.time.extent == 0) {
    const int from = backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0, to = backward ? SCANLIB_GRAD_H0 : SCANLIB_FINAL;
    const int64_t count = given(p, to) ? lane_count(p) : 0, states = given(p, SCANLIB_OFFSETS) ? p.segments : 1;
    auto state = [&](int role, int64_t i, int64_t segment) {
      return data.of[role] + lane_offset(p, role, i) + segment * p.time.stride[role];
    };
    for (int64_t i = 0; i < count; ++i)
      for (int64_t segment = 0; segment < states; ++segment) {
        Complex<double> value{0, 0};
        if (given(p, from)) convert.widen[p.dtype[from]](1, state(from, i, segment), 0, &value);
        convert.narrow[p.dtype[to]](1, &value, state(to, i, segment), 0);
      }
  }
  if (!backward || is_gated(p)) return SCANLIB_OK;
  // grad_a's elements along broadcast axes that are empty.
  scanlib_problem own = p;
  auto one_if_summed = [](scanlib_axis &axis) {
    if (axis.stride[SCANLIB_GRAD_A] == 0) axis.extent = 1;
  };
  one_if_summed(own.time);
  one_if_summed(own.inner);
  for (int d = 0; d < p.outer_rank; ++d) one_if_summed(own.outer[d]);
  const Complex<double> zero{0, 0};
  for (int64_t i = 0, count = lane_count(own); i < count; ++i)
    for (int64_t t = 0; t < own.time.extent; ++t) {
      const int64_t at = lane_offset(own, SCANLIB_GRAD_A, i) + t * own.time.stride[SCANLIB_GRAD_A];
      convert.narrow[p.dtype[SCANLIB_GRAD_A]](1, &zero, data.of[SCANLIB_GRAD_A] + at, 0);
    }
  return SCANLIB_OK;
}

template <class T>
int run_as(const scanlib_problem &p, const Pointers &data) {
  using Op = Linear<Scalars<T>>;
  const Schedule schedule = make_schedule(p, sizeof(T));
  const Kernels<Op> &kernels = instruction_set();
  return Run<Op>(p, schedule, data, kernels).run();
}

int run(const scanlib_problem *problem, const void *const *pointers) {
  if (!problem || problem->abi_version != SCANLIB_ABI_VERSION) return SCANLIB_E_ARGUMENT;
  const scanlib_problem &p = *problem;
  void *of[SCANLIB_ROLES];
  if (int status = resolve_pointers(p, pointers, of)) return status;
  Pointers data;
  for (int role = 0; role < SCANLIB_ROLES; ++role) data.of[role] = static_cast<char *>(of[role]);
  if (given(p, SCANLIB_OFFSETS) && !Offsets(p, of[SCANLIB_OFFSETS]).valid()) return SCANLIB_E_OFFSETS;
  IeeeArithmetic ieee;
  if (p.time.extent == 0 || lane_count(p) == 0) return run_empty(p, data);
  if (is_gated(p)) return run_gated(p, of);
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

extern "C" int scanlib_cpu_run(const scanlib_problem *problem, const void *const *pointers) {
  return run(problem, pointers);
}

extern "C" size_t scanlib_cpu_describe(const scanlib_problem *problem, char *buffer, size_t size) {
  if (!problem || problem->abi_version != SCANLIB_ABI_VERSION) return 0;
  const int32_t dtype = compute_dtype(*problem);
  if (is_gated(*problem))
    return size_t(std::snprintf(buffer, size, "%s gates in %s, %s: %lld sequences of %lld steps",
                                is_backward(*problem) ? "backward" : "forward", dtype_name(dtype), scanlib_cpu_isa(),
                                (long long)lane_count(*problem), (long long)problem->time.extent));
  Schedule s = make_schedule(*problem, dtype_size(dtype));
  int length = std::snprintf(
      buffer, size,
      "%s %s in %s, %s: %lld sequences of %lld steps in %lld groups of up to %lld, time in %lld segments of %lld",
      s.backward ? "backward" : "forward", s.rows ? "rows" : "columns", dtype_name(dtype), scanlib_cpu_isa(),
      (long long)lane_count(*problem), (long long)problem->time.extent, (long long)s.groups, (long long)s.lanes,
      (long long)s.segments, (long long)s.segment);
  return length < 0 ? 0 : size_t(length);
}

extern "C" const char *scanlib_version(void) { return SCANLIB_VERSION; }
