// Drives libscanlib through its C interface, without Python, for the sanitizers:
//
//   driver cases        every dtype, instruction set, layout and a range of lengths, against a serial loop
//   driver large [N]    problems large enough for several threads and for time to be split, every Nth of them
//   driver concurrent   many threads calling at once, some on one problem
//   driver fork         calls in children of a process whose other threads are calling
//   driver gated [N]    N gated recurrences drawn at random, on each instruction set
//   driver openmp       the same calls on another runtime's threads, of which more or fewer come than were asked for
//   driver refusals     what must be refused
//   driver sets         the instruction sets of this machine that there are kernels for
//
// driver_threads.cpp has the modes concurrent, fork and openmp.
#include "driver.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gated_check.h"

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
    if (is_used(role, backward)) c.operand[role] = {dtype, contiguous(c.shape, axis, is_state(role))};
  }
  return c;
}

}  // namespace scanlib_tests

using namespace scanlib_tests;

namespace {

const int32_t kDtypes[] = {SCANLIB_F16, SCANLIB_BF16, SCANLIB_F32, SCANLIB_F64, SCANLIB_C64, SCANLIB_C128};
const char *const kIsas[] = {"baseline", "avx2", "avx512", "neon"};

// The layouts of one shape: contiguous, broadcast and shared operands, halves of a projection, negative strides, gaps.
std::vector<Case> layouts(const std::vector<int64_t> &shape, int32_t axis, int32_t dtype, bool backward) {
  std::vector<Case> all;
  const Case base = plain(shape, axis, dtype, backward);
  all.push_back(base);
  all.back().holders = true;

  Case bare = base;
  for (int role : {SCANLIB_H0, SCANLIB_FINAL, SCANLIB_GRAD_FINAL, SCANLIB_GRAD_H0})
    bare.operand[role].dtype = SCANLIB_ABSENT;
  bare.flags = SCANLIB_REVERSE;
  bare.in_place = !backward;
  all.push_back(bare);

  Case channel = base;  // one `a` for each channel, then one for all
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A}) {
    if (channel.operand[role].dtype == SCANLIB_ABSENT) continue;
    channel.operand[role].strides.assign(shape.size(), 0);
    channel.operand[role].strides.back() = 1;
  }
  channel.values = Values::kNearOne;
  channel.flags = SCANLIB_CONJUGATE;
  all.push_back(channel);
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A})
    channel.operand[role].strides.assign(channel.operand[role].strides.size(), 0);
  channel.flags |= SCANLIB_REVERSE;
  all.push_back(channel);

  Case alternating = base;  // no two axes are one
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A})
    for (size_t d = 0; d < alternating.operand[role].strides.size(); d += 2) alternating.operand[role].strides[d] = 0;
  all.push_back(alternating);

  Case halves = base;  // every other channel, outputs too
  for (Operand &operand : halves.operand)
    for (int64_t &stride : operand.strides) stride *= 2;
  halves.values = Values::kSigns;
  all.push_back(halves);

  Case backwards = base;  // all strides negative, for one operand only the time's
  for (Operand &operand : backwards.operand)
    for (int64_t &stride : operand.strides) stride = -stride;
  backwards.operand[SCANLIB_A].strides[size_t(axis)] *= -1;
  backwards.values = Values::kSpecial;
  all.push_back(backwards);

  Case fields = base;  // of packed records: elements at any address, any number of bytes apart
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    fields.operand[role].misaligned = 1 + role % 5;
    fields.operand[role].gap = role % 3 ? 3 : 0;
  }
  all.push_back(fields);
  return all;
}

template <class F>
void on_each_isa(F body) {
  for (const char *isa : kIsas)
    if (scanlib_cpu_select_isa(isa) == SCANLIB_OK) body();
}

void sets() {
  on_each_isa([] { std::printf("%s\n", scanlib_cpu_isa()); });
}

void cases() {
  const std::vector<int64_t> lengths = {0, 1, 2, 31, 33, 130};
  on_each_isa([&] {
    uint64_t seed = 1;
    for (int32_t dtype : kDtypes)
      for (bool backward : {false, true}) {
        std::vector<Case> all;
        auto take = [&](std::vector<int64_t> shape, int32_t axis) {
          for (Case &c : layouts(shape, axis, dtype, backward)) all.push_back(std::move(c));
        };
        for (int64_t T : lengths) {
          take({T}, 0);
          take({3, T}, 1);
          take({T, 5}, 0);
          take({2, T, 37}, 1);
        }
        take({0, 4, 3}, 1);
        take({1, 1, 1}, 1);
        take({2, 3, 2, 7, 2, 3}, 3);
        take({2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 2}, 4);
        take({4099}, 0);     // one long sequence
        take({2, 9001}, 1);  // a few
        take({4001, 3}, 0);  // few channels
        take({65, 67}, 0);   // many channels, columns and rows
        take({65, 67}, 1);
        for (Case &c : all) {
          c.seed = ++seed;
          c.threads = 2 + int32_t(seed % 4);
          run(c);
        }
      }
    // Operands of different dtypes, converted on the fly.
    const int32_t mixed[][2] = {{SCANLIB_F32, SCANLIB_BF16}, {SCANLIB_F32, SCANLIB_C64}, {SCANLIB_F64, SCANLIB_F16}};
    for (auto &[a, x] : mixed)
      for (bool backward : {false, true}) {
        for (Case &c : layouts({3, 200, 11}, 1, x, backward)) {
          c.operand[SCANLIB_A].dtype = a;
          if (backward) c.operand[SCANLIB_GRAD_A].dtype = a;
          run(c);
        }
      }
  });
}

void large(int every) {
  int number = 0;
  for (int32_t dtype : kDtypes)
    for (bool backward : {false, true}) {
      auto take = [&](std::vector<int64_t> shape, int32_t axis) {
        for (Case &c : layouts(shape, axis, dtype, backward)) {
          c.seed = uint64_t(number);
          c.threads = 2 + number % 5;
          if (number++ % every == 0) run(c);
        }
      };
      take({300007}, 0);       // one sequence, its time split
      take({3, 100003}, 1);    // a few
      take({80021, 4}, 0);     // few channels
      take({2, 5003, 37}, 1);  // time split in columns
      take({331, 907}, 0);     // many channels, columns and rows
      take({331, 907}, 1);
      take({40, 3, 50, 51}, 1);  // short sequences
    }
}

void gated(int count) {
  on_each_isa([&] {
    for (int i = 0; i < count; ++i) {
      Random random(uint64_t(i) + 1);
      const std::string wrong = check_gates(random);
      if (wrong.empty()) continue;
      if (failures++ < 10) std::fprintf(stderr, "%s\n  in gated recurrence %d\n", wrong.c_str(), i);
    }
  });
}

void refusals() {
  float a[4] = {}, x[4] = {}, h[4] = {7, 7, 7, 7};
  const int64_t shape[] = {4}, strides[] = {sizeof(float)}, negative[] = {-1}, giant[] = {INT64_MAX};
  scanlib_operand given[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) given[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  auto init = [&](int32_t flags, int32_t ndim, const int64_t *extents, int32_t axis) {
    return scanlib_problem_init(&problem, flags, ndim, extents, axis, given);
  };
  require(init(0, 1, shape, 1) == SCANLIB_E_ARGUMENT, "an axis past the last is refused");
  require(init(0, 1, shape, -1) == SCANLIB_E_ARGUMENT, "a negative axis is refused");
  require(init(0, 0, shape, 0) == SCANLIB_E_ARGUMENT, "no axes are refused");
  require(init(0, SCANLIB_MAX_DIMS + 1, shape, 0) == SCANLIB_E_ARGUMENT, "too many axes are refused");
  require(init(8, 1, shape, 0) == SCANLIB_E_ARGUMENT, "unknown flags are refused");
  require(init(0, 1, nullptr, 0) == SCANLIB_E_ARGUMENT, "a null shape is refused");
  require(init(0, 1, negative, 0) == SCANLIB_E_ARGUMENT, "a negative extent is refused");
  require(init(0, 1, giant, 0) == SCANLIB_E_OVERFLOW, "a giant extent is refused");
  require(scanlib_problem_init(nullptr, 0, 1, shape, 0, given) == SCANLIB_E_ARGUMENT, "a null problem is refused");
  given[SCANLIB_A].dtype = 7;
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "an unknown dtype is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, nullptr};
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "null strides are refused");
  given[SCANLIB_A] = {};
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "a missing operand is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, giant};
  require(init(0, 1, shape, 0) == SCANLIB_E_OVERFLOW, "a giant stride is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, strides};

  require(init(0, 1, shape, 0) == SCANLIB_OK, "a plain problem is taken");
  require(forward(nullptr, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "a null problem is refused");
  require(forward(&problem, nullptr, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "a null a is refused");
  require(scanlib_cpu_run(&problem, nullptr) == SCANLIB_E_ARGUMENT, "a null table of pointers is refused");
  given[SCANLIB_GRAD_A] = given[SCANLIB_A];
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "an operand of the other pass is refused");
  given[SCANLIB_GRAD_A] = {};
  given[SCANLIB_H0] = given[SCANLIB_A];
  require(init(0, 1, shape, 0) == SCANLIB_OK, "an initial state is taken");
  require(forward(&problem, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT,
          "a null h0 is refused where it is prepared");
  given[SCANLIB_H0] = {};
  require(init(0, 1, shape, 0) == SCANLIB_OK, "the plain problem is taken again");
  const int64_t none[] = {0};
  given[SCANLIB_FINAL] = {SCANLIB_F32, 0, strides};
  require(init(0, 1, none, 0) == SCANLIB_OK, "a problem of no steps is taken");
  require(forward(&problem, nullptr, nullptr, nullptr, nullptr, nullptr) == SCANLIB_E_ARGUMENT,
          "a null final state is refused though there are no steps");
  require(forward(&problem, nullptr, nullptr, nullptr, nullptr, h + 3) == SCANLIB_OK && h[3] == 0,
          "without steps only the final state needs memory");
  h[3] = 7;
  given[SCANLIB_FINAL] = {};
  require(init(0, 1, shape, 0) == SCANLIB_OK, "the plain problem is taken again");

  problem.abi_version += 1;
  require(forward(&problem, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "another ABI is refused");
  for (float value : h) require(value == 7, "a refused call writes nothing");

  require(scanlib_cpu_select_isa("abacus") == SCANLIB_E_ARGUMENT, "an unknown instruction set is refused");
  require(scanlib_cpu_select_isa(nullptr) == SCANLIB_E_ARGUMENT, "a null instruction set is refused");
  for (int status = -1; status < 9; ++status)
    require(std::strlen(scanlib_status_string(status)) > 5, "every status has a text");
  require(scanlib_abi_version() == SCANLIB_ABI_VERSION, "the ABI is the header's");
  require(scanlib_cpu_threads() >= 1, "there is a thread to run on");
}

}  // namespace

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
