// The CPU core with other operators than the linear recurrence's: a library for test_operators.py. Everything but the operators is
// the core's own.
#include "operators.h"

#include <cstring>

#include "dispatch.h"
#include "pointers.h"
#include "run.h"

using namespace scanlib;
namespace of_tests = scanlib_tests;

namespace {

const of_tests::OperatorLoops *loops_of(const char *isa) {
#if defined(__x86_64__)
  const of_tests::OperatorLoops *all[] = {&of_tests::baseline, &of_tests::avx2, &of_tests::avx512};
#elif defined(__aarch64__)
  const of_tests::OperatorLoops *all[] = {&of_tests::neon};
#else
  const of_tests::OperatorLoops *all[] = {&of_tests::baseline};
#endif
  for (const of_tests::OperatorLoops *each : all)
    if (!std::strcmp(isa, each->isa)) return each;
  return nullptr;
}

template <class Op>
int run_with(const scanlib_problem &p, const Pointers &data, const Kernels<Op> &kernels) {
  const Schedule schedule = make_schedule(p, sizeof(typename Op::Element));
  return Run<Op>(p, schedule, data, kernels).run();
}

}  // namespace

// As scanlib_cpu_run() for the operator of a name and the instruction set of another, which the machine must have.
extern "C" SCANLIB_API int operator_run(const char *name, const char *isa, const scanlib_problem *problem,
                                        const void *const *pointers) {
  const of_tests::OperatorLoops *loops = loops_of(isa);
  void *of[SCANLIB_ROLES];
  if (!loops || resolve_pointers(*problem, pointers, of)) return SCANLIB_E_ARGUMENT;
  Pointers data;
  for (int role = 0; role < SCANLIB_ROLES; ++role) data.of[role] = static_cast<char *>(of[role]);
  const bool max_plus = !std::strcmp(name, "max_plus"), spiral = !std::strcmp(name, "spiral");
  const int32_t dtype = compute_dtype(*problem);
  if (max_plus && dtype == SCANLIB_F32) return run_with(*problem, data, loops->max_plus_f32);
  if (max_plus && dtype == SCANLIB_F64) return run_with(*problem, data, loops->max_plus_f64);
  if (spiral && dtype == SCANLIB_C64) return run_with(*problem, data, loops->spiral_c64);
  if (spiral && dtype == SCANLIB_C128) return run_with(*problem, data, loops->spiral_c128);
  return SCANLIB_E_ARGUMENT;
}
