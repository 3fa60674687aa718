// The driver's mode of problems large enough for several threads and for time to be split.
#include <cmath>

#include "driver.h"

using namespace scanlib_tests;

namespace {

// Where time is split: segments of it in which some lanes start and others do not, and in which none does.
void split_starts() {
  for (int32_t dtype : {SCANLIB_F32, SCANLIB_C64})
    for (bool backward : {false, true})
      for (const std::vector<int64_t> &shape : {std::vector<int64_t>{5003, 37}, {70001, 2}}) {
        Case c = plain(shape, 0, dtype, backward);
        c.threads = 3;
        c.values = Values::kNearOne;  // so that what comes from far away is seen
        Case packed = c;
        c.operand[SCANLIB_RESET] = {SCANLIB_BOOL, contiguous(shape)};
        c.resets = int32_t(6 * 65536 / shape[0]);
        run(c);
        c.operand[SCANLIB_RESET].strides[1] = 0;
        c.flags = SCANLIB_REVERSE;
        run(c);
        packed.segments = 7;
        packed.operand[SCANLIB_OFFSETS] = {SCANLIB_I32, {1, 0}};
        for (int role = 0; role < SCANLIB_ROLES; ++role)
          if (is_state(role) && packed.given(role)) packed.operand[role].strides = {shape[1], 1};
        run(packed);
      }
}

// A state overflows and is then multiplied by 0, where time is split: what that leaves ends at the next start. The serial loop
// in long double overflows later.
void overflow_before_start(int64_t steps, int64_t lanes, bool backward, bool packed) {
  const int64_t shape[] = {steps, lanes}, strides[] = {lanes * 4, 4}, mask_strides[] = {lanes, 1}, where[] = {4, 0};
  // In the order of the walk: the state overflows after a third, a sequence starts after three quarters, where one is added.
  const int64_t third = steps / 3, quarter = steps / 4, start = backward ? quarter : steps - quarter;
  const size_t count = size_t(steps * lanes);
  std::vector<float> a(count, 1), x(count, 0), ones(count, 1), out(count, 7), grad_a(count, 7);
  std::vector<float> enters(size_t(2 * lanes), 1e30f), h0(size_t(2 * lanes), 1), leaves(size_t(2 * lanes), 7);
  std::vector<unsigned char> reset(count, 0);
  const int32_t offsets[] = {0, int32_t(start), int32_t(steps)};
  for (int64_t j = 0; j < lanes; ++j) {
    const int64_t at = backward ? steps - third : third, entry = backward ? start - 1 : start;
    a[size_t(at * lanes + j)] = 1e30f;
    a[size_t((backward ? at - 1 : at + 1) * lanes + j)] = 0;
    x[size_t(entry * lanes + j)] = 1;
    reset[size_t(start * lanes + j)] = 1;
    if (packed) enters[size_t((backward ? 0 : lanes) + j)] = 0;  // the segment that is walked last
  }
  scanlib_operand operands[SCANLIB_ROLES] = {};
  const void *pointers[SCANLIB_ROLES] = {};
  auto give = [&](int role, const void *at) { operands[role] = {SCANLIB_F32, 0, strides}, pointers[role] = at; };
  give(SCANLIB_A, a.data());
  give(backward ? SCANLIB_GRAD_H : SCANLIB_X, x.data());
  give(backward ? SCANLIB_GRAD_X : SCANLIB_H, out.data());
  give(backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0, enters.data());
  give(backward ? SCANLIB_GRAD_H0 : SCANLIB_FINAL, leaves.data());
  if (backward) give(SCANLIB_H, ones.data()), give(SCANLIB_H0, h0.data()), give(SCANLIB_GRAD_A, grad_a.data());
  if (packed)
    operands[SCANLIB_OFFSETS] = {SCANLIB_I32, 0, where}, pointers[SCANLIB_OFFSETS] = offsets;
  else
    operands[SCANLIB_RESET] = {SCANLIB_BOOL, 0, mask_strides}, pointers[SCANLIB_RESET] = reset.data();
  scanlib_problem problem;
  require(scanlib_problem_init(&problem, 0, 2, shape, 0, 2, operands) == SCANLIB_OK, "a split problem is taken");
  require(scanlib_cpu_run(&problem, pointers) == SCANLIB_OK, "it runs");
  bool cut = true, kept = true;
  for (int64_t i = 0; i < int64_t(count); ++i) {
    const int64_t t = i / lanes;
    const bool after = backward ? t < start : t >= start;
    const bool lost = !after && (backward ? t < steps - third - 1 : t > third);
    if (after) cut = cut && out[size_t(i)] == 1;
    if (lost) kept = kept && std::isnan(out[size_t(i)]);
    if (backward && after) cut = cut && grad_a[size_t(i)] == 1;
    if (backward && t == start && !packed) cut = cut && grad_a[size_t(i)] == 0;
  }
  for (int64_t j = 0; j < lanes; ++j) {
    cut = cut && leaves[size_t((packed && !backward ? lanes : 0) + j)] == 1;
    if (packed) kept = kept && std::isnan(leaves[size_t((backward ? lanes : 0) + j)]);
  }
  require(cut, "an overflow ends where a sequence starts");
  require(kept, "an overflow stays until a sequence starts");
}

}  // namespace

void scanlib_tests::large(int every) {
  split_starts();
  for (bool backward : {false, true})
    for (bool packed : {false, true}) {
      overflow_before_start(300007, 1, backward, packed);
      overflow_before_start(9001, 37, backward, packed);
    }
  int number = 0;
  for (int32_t dtype : kDtypes)
    for (bool backward : {false, true}) {
      auto take = [&](std::vector<int64_t> shape, int32_t axis) {
        Random random{uint64_t(number) + 1};
        std::vector<Case> all = layouts(shape, axis, dtype, backward);
        for (Case &c : with_starts(all, 2, random)) all.push_back(std::move(c));
        for (Case &c : all) {
          c.seed = uint64_t(number);
          c.threads = 2 + number % 5;
          if (Random(uint64_t(number++)).below(every) == 0) run(c);  // in no step with the layouts
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
