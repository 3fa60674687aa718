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
// driver_threads.cpp has the modes concurrent, fork and openmp.
#include "driver.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>

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
    if (is_used(role, backward) && !is_start(role)) c.operand[role] = {dtype, contiguous(c.extents(role))};
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

// Masks: of single elements, one for all channels, of sequences as wholes, of one byte for everything, in any order; from no
// start to starts alone.
void reset(Case &c, Random &random) {
  Operand &mask = c.operand[SCANLIB_RESET];
  mask = {SCANLIB_BOOL, contiguous(c.shape)};
  const int64_t kind = random.below(6);
  for (size_t d = 0; d < c.shape.size(); ++d) {
    const bool along_time = int(d) == c.axis;
    int64_t &stride = mask.strides[d];
    if ((kind == 0 && !along_time) || (kind == 1 && along_time) || (kind == 2 && random.below(2))) stride = 0;
    if (kind == 3) stride *= -1;
    if (kind == 4) stride = along_time ? 2 * stride : -2 * stride;
  }
  mask.gap = random.below(4) ? 0 : 2;
  const int32_t densities[] = {0, 60, 1000, 8000, 32768, 65536};
  c.resets = densities[random.below(6)];
}

// Offsets: of one segment, of some, of as many as there are steps, of more.
void pack(Case &c, Random &random) {
  const int64_t steps = c.shape[size_t(c.axis)], some = 2 + random.below(6);
  const int64_t counts[] = {steps ? 1 : 0, some, steps / 16 + 1, steps + 1, std::min<int64_t>(2 * steps, 9000) + some};
  const bool wide = random.below(2), apart = random.below(4) == 0;
  Operand &offsets = c.operand[SCANLIB_OFFSETS];
  offsets = {wide ? SCANLIB_I64 : SCANLIB_I32, std::vector<int64_t>(c.shape.size(), 0)};
  offsets.strides[size_t(c.axis)] = random.below(3) ? 1 : random.below(7) - 3;
  if (offsets.strides[size_t(c.axis)] == 0) offsets.strides[size_t(c.axis)] = 1;
  if (apart) offsets.misaligned = 1 + int(random.below(7)), offsets.gap = 1 + int(random.below(5));
  c.segments = counts[random.below(5)];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!is_state(role) || !c.given(role)) continue;
    Operand &state = c.operand[role];
    // The segments outside of the channels, or the other way round.
    state.strides = contiguous(c.extents(role));
    if (random.below(2)) continue;
    int64_t channels = 1;
    for (size_t d = c.shape.size(); d-- > 0;) {
      if (int(d) == c.axis) continue;
      state.strides[d] = channels * c.segments;
      channels *= std::max<int64_t>(1, c.shape[d]);
    }
    state.strides[size_t(c.axis)] = 1;
    if (random.below(3)) continue;
    for (int64_t &stride : state.strides) stride *= -1;
  }
}

// Some of the layouts with sequences that start inside the time axis.
std::vector<Case> with_starts(const std::vector<Case> &layouts, int count, Random &random) {
  std::vector<Case> all;
  for (int i = 0; i < count; ++i) {
    Case c = layouts[size_t(random.below(int64_t(layouts.size())))];
    if (random.below(2)) c.values = Values::kSpecial;
    random.below(2) ? reset(c, random) : pack(c, random);
    all.push_back(std::move(c));
  }
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
        Random random(uint64_t(dtype * 2 + backward));
        auto take = [&](std::vector<int64_t> shape, int32_t axis) {
          std::vector<Case> plain_ones = layouts(shape, axis, dtype, backward);
          for (const Case &c : plain_ones) all.push_back(c);
          const bool heavy = std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<int64_t>()) > 4000;
          for (const Case &c : with_starts(plain_ones, heavy ? 1 : 2, random)) all.push_back(c);
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
        Random random{uint64_t(a)};
        std::vector<Case> all = layouts({3, 200, 11}, 1, x, backward);
        for (Case &c : with_starts(all, 4, random)) all.push_back(std::move(c));
        for (Case &c : all) {
          c.operand[SCANLIB_A].dtype = a;
          if (backward) c.operand[SCANLIB_GRAD_A].dtype = a;
          run(c);
        }
      }
  });
}

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

void large(int every) {
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

// What says where sequences start, and cannot.
void refused_starts() {
  float a[4] = {}, x[4] = {}, h[4] = {7, 7, 7, 7};
  const int64_t shape[] = {4}, strides[] = {sizeof(float)}, bytes[] = {1}, wide[] = {sizeof(int64_t)};
  const unsigned char reset[4] = {0, 1, 0, 0};
  scanlib_operand given[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) given[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  auto init = [&](int64_t segments) { return scanlib_problem_init(&problem, 0, 1, shape, 0, segments, given); };
  auto run = [&](const void *mask, const void *offsets) {
    const void *pointers[SCANLIB_ROLES] = {};
    pointers[SCANLIB_A] = a, pointers[SCANLIB_X] = x, pointers[SCANLIB_H] = h;
    pointers[SCANLIB_RESET] = mask, pointers[SCANLIB_OFFSETS] = offsets;
    return scanlib_cpu_run(&problem, pointers);
  };
  require(init(-1) == SCANLIB_OK, "segments are of no meaning without offsets");
  for (int32_t dtype = SCANLIB_F16; dtype <= SCANLIB_I64 + 1; ++dtype) {
    given[SCANLIB_RESET] = {dtype, 0, bytes};
    require((init(0) == SCANLIB_OK) == (dtype == SCANLIB_BOOL), "a mask is of bytes that are true or false");
    given[SCANLIB_RESET] = {};
    given[SCANLIB_OFFSETS] = {dtype, 0, wide};
    require((init(2) == SCANLIB_OK) == (dtype == SCANLIB_I32 || dtype == SCANLIB_I64), "offsets are integers");
    given[SCANLIB_OFFSETS] = {};
    for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) {
      given[role].dtype = dtype;
      require((init(0) == SCANLIB_OK) == (dtype < SCANLIB_BOOL), "no other operand is of their dtypes");
      given[role].dtype = SCANLIB_F32;
    }
  }

  given[SCANLIB_RESET] = {SCANLIB_BOOL, 0, bytes};
  require(init(0) == SCANLIB_OK, "a mask is taken");
  require(run(nullptr, nullptr) == SCANLIB_E_ARGUMENT, "a null mask is refused where it is prepared");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, wide};
  require(init(2) == SCANLIB_E_ARGUMENT, "a mask and offsets are refused");
  given[SCANLIB_RESET] = {};
  require(init(-1) == SCANLIB_E_ARGUMENT, "a negative number of segments is refused");
  require(init(INT64_MIN) == SCANLIB_E_ARGUMENT, "a giant negative number of segments is refused");
  require(init(INT64_MAX) == SCANLIB_E_OVERFLOW, "a giant number of segments is refused");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, nullptr};
  require(init(2) == SCANLIB_E_ARGUMENT, "null strides of offsets are refused");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, wide};
  require(init(2) == SCANLIB_OK, "offsets are taken");
  require(run(nullptr, nullptr) == SCANLIB_E_ARGUMENT, "null offsets are refused");
  const int64_t lies[][3] = {{1, 2, 4},         {0, 2, 3},         {0, 2, 5},  {0, 5, 4},
                             {0, -1, 4},        {-1, 2, 4},        {0, 4, -4}, {0, INT64_MAX, 4},
                             {0, INT64_MIN, 4}, {0, 2, INT64_MAX}, {4, 2, 0}};
  for (const int64_t *lie : lies) require(run(nullptr, lie) == SCANLIB_E_OFFSETS, "offsets that lie are refused");
  require(init(0) == SCANLIB_OK, "no segments are taken");
  const int64_t zero = 0, four = 4;
  for (const int64_t *only : {&zero, &four})
    require(run(nullptr, only) == SCANLIB_E_OFFSETS, "no segments have no steps");
  for (float value : h) require(value == 7, "a refused call writes nothing");
  require(init(2) == SCANLIB_OK, "offsets are taken again");
  const int64_t true_ones[] = {0, 4, 4};
  require(run(reset, true_ones) == SCANLIB_OK && h[3] == 0, "where there are offsets no mask is looked at");

  // The same of gates.
  scanlib_gates gates = {};
  gates.outer = gates.inner = 1, gates.time = 4, gates.width = 1, gates.row = 2, gates.at_candidate = 1;
  gates.at_input = -1;
  int32_t with[SCANLIB_ROLES] = {};
  with[SCANLIB_A] = with[SCANLIB_H] = 1;
  auto init_gates = [&](int64_t segments, int32_t mask, int32_t offsets) {
    gates.segments = segments;
    with[SCANLIB_RESET] = mask, with[SCANLIB_OFFSETS] = offsets;
    return scanlib_gated_problem_init(&problem, 0, SCANLIB_F32, &gates, with);
  };
  require(init_gates(-1, 1, 0) == SCANLIB_OK, "a mask of gates is taken");
  require(init_gates(2, 0, SCANLIB_I32) == SCANLIB_OK, "offsets of gates are taken");
  require(init_gates(2, 1, SCANLIB_I32) == SCANLIB_E_ARGUMENT, "a mask and offsets of gates are refused");
  require(init_gates(2, 0, SCANLIB_F32) == SCANLIB_E_ARGUMENT, "offsets of gates are integers");
  require(init_gates(2, 0, SCANLIB_I64 + 1) == SCANLIB_E_ARGUMENT, "an unknown dtype of offsets is refused");
  require(init_gates(-1, 0, SCANLIB_I64) == SCANLIB_E_ARGUMENT, "a negative number of segments of gates is refused");
  require(init_gates(INT64_MIN, 0, SCANLIB_I64) == SCANLIB_E_ARGUMENT, "so is a giant negative one");
  require(init_gates(INT64_MAX, 0, SCANLIB_I64) == SCANLIB_E_OVERFLOW, "a giant number of them is refused");
}

void refusals() {
  float a[4] = {}, x[4] = {}, h[4] = {7, 7, 7, 7};
  const int64_t shape[] = {4}, strides[] = {sizeof(float)}, negative[] = {-1}, giant[] = {INT64_MAX};
  scanlib_operand given[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) given[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  auto init = [&](int32_t flags, int32_t ndim, const int64_t *extents, int32_t axis) {
    return scanlib_problem_init(&problem, flags, ndim, extents, axis, 0, given);
  };
  require(init(0, 1, shape, 1) == SCANLIB_E_ARGUMENT, "an axis past the last is refused");
  require(init(0, 1, shape, -1) == SCANLIB_E_ARGUMENT, "a negative axis is refused");
  require(init(0, 0, shape, 0) == SCANLIB_E_ARGUMENT, "no axes are refused");
  require(init(0, SCANLIB_MAX_DIMS + 1, shape, 0) == SCANLIB_E_ARGUMENT, "too many axes are refused");
  require(init(8, 1, shape, 0) == SCANLIB_E_ARGUMENT, "unknown flags are refused");
  require(init(0, 1, nullptr, 0) == SCANLIB_E_ARGUMENT, "a null shape is refused");
  require(init(0, 1, negative, 0) == SCANLIB_E_ARGUMENT, "a negative extent is refused");
  require(init(0, 1, giant, 0) == SCANLIB_E_OVERFLOW, "a giant extent is refused");
  require(scanlib_problem_init(nullptr, 0, 1, shape, 0, 0, given) == SCANLIB_E_ARGUMENT, "a null problem is refused");
  given[SCANLIB_A].dtype = SCANLIB_I64 + 1;
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
  for (int status = -1; status <= SCANLIB_E_CUDA + 1; ++status)
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
    refusals(), refused_starts();
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
