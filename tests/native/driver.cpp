// Drives libscanlib through its C interface, without Python, for the sanitizers:
//
//   driver cases        every dtype, instruction set, layout and a range of lengths, against a serial loop
//   driver large [N]    problems large enough for several threads and for time to be split, one in N of them
//   driver concurrent   many threads calling at once, some on one problem
//   driver fork         calls in children of a process whose other threads are calling
//   driver gated [N]    N gated recurrences drawn at random, on each instruction set
//   driver openmp       the same calls on another runtime's threads, of which more or fewer come than were asked for
//   driver refusals     what must be refused
//   driver sets         the instruction sets of this machine that there are kernels for
//
// driver_cases.cpp has the modes cases, gated and sets, driver_large.cpp large, driver_refusals.cpp refusals, driver_threads.cpp
// concurrent, fork and openmp.
#include "driver.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace scanlib_tests {

std::atomic<int> failures{0};

void run(const Case &c) {
  std::string wrong = check(c);
  if (wrong.empty()) return;
  if (failures++ < 10) std::fprintf(stderr, "%s\n  in %s\n", wrong.c_str(), describe(c).c_str());
}

void require(bool holds, const char *what) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "not so: %s\n", what);
}

int forward(const scanlib_problem *problem, const void *a, const void *x, const void *h0, void *h, void *final_state) {
  const void *pointers[SCANLIB_ROLES] = {};
  pointers[SCANLIB_A] = a, pointers[SCANLIB_X] = x, pointers[SCANLIB_H0] = h0;
  pointers[SCANLIB_H] = h, pointers[SCANLIB_FINAL] = final_state;
  return scanlib_cpu_run(problem, pointers);
}

Case plain(std::vector<int64_t> shape, int32_t axis, int32_t dtype, bool backward) {
  Case c;
  c.shape = std::move(shape);
  c.axis = axis;
  c.backward = backward;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (is_used(role, backward) && !is_start(role)) c.operand[role] = {dtype, contiguous(c.extents(role))};
  }
  return c;
}

}  // namespace scanlib_tests

using namespace scanlib_tests;

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  alarm(kHang);
  if (!std::strcmp(mode, "cases"))
    cases();
  else if (!std::strcmp(mode, "large"))
    large(argc > 2 && std::atoi(argv[2]) > 0 ? std::atoi(argv[2]) : 1);
  else if (!std::strcmp(mode, "concurrent"))
    concurrent();
  else if (!std::strcmp(mode, "fork"))
    forks();
  else if (!std::strcmp(mode, "gated"))
    gated(argc > 2 && std::atoi(argv[2]) > 0 ? std::atoi(argv[2]) : 300);
  else if (!std::strcmp(mode, "openmp"))
    openmp();
  else if (!std::strcmp(mode, "refusals"))
    refusals();
  else if (!std::strcmp(mode, "sets"))
    sets();
  else
    return std::fprintf(
               stderr,
               "usage: %s cases | large [every] | concurrent | fork | gated [count] | openmp | refusals | sets\n",
               argv[0]),
           2;
  std::printf("%s: %d failures\n", mode, failures.load());
  return failures ? 1 : 0;
}
