// Fuzz target over the C interface (libFuzzer's entry point). The bytes are read as one call: shape, axis, dtypes,
// strides of every kind, flags, addresses off their alignment, where sequences start. check() then demands that the library
// keeps its word, and check_lie() that it takes no offsets that cannot be. A part of the inputs goes unshaped to
// scanlib_problem_init() and scanlib_gated_problem_init(), which may refuse but not crash.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <numeric>

#include "check.h"

using namespace scanlib_tests;

namespace {

class Bytes {
 public:
  Bytes(const uint8_t *data, size_t size) : data_(data), left_(size) {}
  uint8_t next() { return left_ ? (--left_, *data_++) : 0; }
  int64_t below(int64_t n) { return next() % n; }
  bool one_in(int n) { return next() % n == n - 1; }
  int64_t wide() {
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | next();
    return int64_t(value);
  }

 private:
  const uint8_t *data_;
  size_t left_;
};

// Strides that reach every element at an address of its own: a permuted order, gaps, signs.
std::vector<int64_t> distinct(Bytes &in, const Case &c, int role) {
  const std::vector<int64_t> extents = c.extents(role);
  std::vector<size_t> order(extents.size());
  std::iota(order.begin(), order.end(), size_t(0));
  if (in.one_in(2))
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[size_t(in.below(int64_t(i)))]);
  std::vector<int64_t> strides(extents.size());
  int64_t step = 1 + in.below(3) / 2;
  for (size_t i = order.size(); i-- > 0;) {
    const size_t d = order[i];
    strides[d] = in.one_in(5) ? -step : step;
    if (is_state(role) && int(d) == c.axis && !c.given(SCANLIB_OFFSETS)) {
      strides[d] = in.one_in(4) ? INT64_MIN : in.below(7) - 3;  // to be ignored
      continue;
    }
    step *= std::max<int64_t>(extents[d], 1);
    step += in.one_in(6) ? in.below(4) : 0;
  }
  return strides;
}

std::vector<int64_t> anything(Bytes &in, const Case &c, int role) {
  std::vector<int64_t> strides = distinct(in, c, role);
  const bool broadcast = in.one_in(3), overlap = in.one_in(4);
  for (int64_t &stride : strides) {
    if (broadcast && in.one_in(2)) stride = 0;
    if (overlap) stride = in.below(9) - 4;
  }
  return strides;
}

// Before the states are drawn, whose extents follow from it.
void draw_starts(Bytes &in, Case &c) {
  const int64_t steps = c.shape[size_t(c.axis)];
  if (in.one_in(2)) {
    c.operand[SCANLIB_RESET] = {SCANLIB_BOOL, anything(in, c, SCANLIB_RESET)};
    c.resets = in.one_in(4) ? 65536 * int32_t(in.below(2)) : in.next() << in.below(9);
    return;
  }
  Operand &offsets = c.operand[SCANLIB_OFFSETS];
  offsets = {in.one_in(2) ? SCANLIB_I64 : SCANLIB_I32, std::vector<int64_t>(c.shape.size(), 0)};
  offsets.strides[size_t(c.axis)] = (1 + in.below(3)) * (in.one_in(3) ? -1 : 1);
  const int64_t some = in.one_in(3) ? (in.next() * 256 + in.next()) % (2 * steps + 2) : in.below(7);
  c.segments = std::max<int64_t>(some, steps ? 1 : 0);
  if (steps == 0 && in.one_in(3)) offsets.strides[size_t(c.axis)] = 0;
}

Case decode(Bytes &in) {
  Case c;
  const int ndim = 1 + int(in.one_in(8) ? in.below(14) : in.below(4));
  const int64_t most = in.one_in(40) ? 200000 : 12000;  // the larger are worth several threads
  int64_t count = 1;
  for (int d = 0; d < ndim; ++d) {
    const int64_t room = std::max<int64_t>(1, most / count);
    const int64_t largest = std::min<int64_t>(room, in.one_in(3) ? most / 2 : in.one_in(2) ? 70 : 5);
    const int64_t extent = in.one_in(20) ? 0 : 1 + (in.next() * 65536 + in.next() * 256 + in.next()) % largest;
    c.shape.push_back(extent);
    count *= std::max<int64_t>(extent, 1);
  }
  c.axis = int32_t(in.below(ndim));
  c.backward = in.one_in(2);
  c.flags = int32_t(in.below(8));
  c.threads = int32_t(in.below(6));
  c.values = Values(in.below(4));
  c.holders = in.one_in(4);
  c.seed = in.next();
  const int32_t common = 1 + int32_t(in.below(6));
  const bool mixed = in.one_in(4);
  const int misaligned = in.one_in(4) ? int(in.below(SCANLIB_ROLES)) : -1;
  if (in.one_in(2)) draw_starts(in, c);
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!is_used(role, c.backward) || (is_state(role) && in.one_in(2))) continue;
    Operand &operand = c.operand[role];
    if (!is_start(role)) {
      operand.dtype = mixed ? 1 + int32_t(in.below(6)) : common;
      operand.strides = is_output(role, c.backward) ? distinct(in, c, role) : anything(in, c, role);
    }
    if (role == misaligned) {
      operand.misaligned = int(in.below(16));
      operand.gap = int(in.below(9));
    }
  }
  if (c.backward && in.one_in(2)) {  // the gradient of a broadcast a
    std::vector<int64_t> &strides = c.operand[SCANLIB_GRAD_A].strides;
    for (int64_t &stride : strides)
      if (in.one_in(2)) stride = 0;
  }
  if (!c.backward && in.one_in(4)) {
    c.in_place = true;
    c.operand[SCANLIB_X] = c.operand[SCANLIB_H];
  }
  return c;
}

// One of the offsets is another number, mostly one that it cannot be.
std::string lie(Bytes &in, const Case &c) {
  const int64_t steps = c.shape[size_t(c.axis)], anywhere = (in.next() * 256 + in.next()) % (c.segments + 1);
  const int64_t number = in.one_in(2) ? anywhere : in.one_in(2) ? 0 : c.segments;
  const int64_t values[] = {-1, 1, steps - 1, steps + 1, INT32_MIN, INT32_MAX, INT64_MIN, INT64_MAX, in.wide()};
  return check_lie(c, number, values[in.below(9)]);
}

// What a GPU would be given is worked out without one.
void plan(Bytes &in, scanlib_problem problem) {
  int64_t numbers[sizeof problem.tuning / sizeof(int64_t)] = {};
  if (in.one_in(3))
    for (int64_t &number : numbers) number = in.one_in(4) ? in.wide() : in.one_in(2) ? int64_t(1) << in.below(12) : 0;
  std::memcpy(&problem.tuning, numbers, sizeof numbers);
  const bool tuned = std::any_of(std::begin(numbers), std::end(numbers), [](int64_t number) { return number != 0; });
  char text[64];
  int64_t bytes = -1;
  const int status = scanlib_cuda_scratch_bytes(&problem, &bytes);
  if (status != SCANLIB_OK && status != SCANLIB_E_OVERFLOW && status != SCANLIB_E_ALIGNMENT &&
      !(tuned && status == SCANLIB_E_ARGUMENT))
    std::abort();
  if (status == SCANLIB_OK && bytes < 0) std::abort();
  const bool described = scanlib_cuda_describe(&problem, text, sizeof text) > 0;
  if (described != (status == SCANLIB_OK)) std::abort();
  scanlib_cuda_programs(&problem, text, sizeof text);
}

void look_at(Bytes &in, const scanlib_problem &problem) {
  char text[64];
  scanlib_cpu_describe(&problem, text, sizeof text);
  plan(in, problem);
}

// Any extents, strides and dtypes: most of what such a call could mean no memory could hold.
void unshaped(Bytes &in) {
  const int64_t giants[] = {in.wide(), INT64_MAX, INT64_MIN, int64_t(1) << 58, int64_t(1) << (in.next() % 63)};
  int64_t shape[SCANLIB_MAX_DIMS + 8], strides[SCANLIB_MAX_DIMS + 8];
  const bool wild = in.one_in(2);
  for (int d = 0; d < SCANLIB_MAX_DIMS + 8; ++d) {
    shape[d] = wild && in.one_in(9) ? giants[in.below(5)] : in.one_in(20) ? in.below(3) - 1 : 1 + in.below(3);
    strides[d] = wild && in.one_in(3) ? giants[in.below(5)] : in.below(9) - 4;
  }
  const bool backward = in.one_in(2), garbled = in.one_in(4);
  const int64_t starts = in.below(4);
  scanlib_operand operands[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const bool used = is_used(role, backward);
    const bool odd = garbled && in.one_in(5);
    int32_t dtype = used && !is_start(role) ? 1 + int32_t(in.below(6)) : SCANLIB_ABSENT;
    if (role == SCANLIB_RESET && starts == 1) dtype = SCANLIB_BOOL;
    if (role == SCANLIB_OFFSETS && starts == 2) dtype = SCANLIB_I32 + int32_t(in.below(2));
    operands[role] = {odd ? int32_t(in.below(12)) - 1 : dtype, 0,
                      odd && in.one_in(2) ? nullptr : strides + in.below(3)};
  }
  const int64_t segments = wild && in.one_in(3) ? giants[in.below(5)] : in.below(9) - 1;
  const int32_t ndim = int32_t(garbled ? in.below(SCANLIB_MAX_DIMS + 4) - 1 : 1 + in.below(9));
  const int32_t axis = int32_t(garbled ? in.below(12) - 1 : in.below(ndim));
  scanlib_problem problem;
  const int status =
      scanlib_problem_init(&problem, int32_t(in.below(garbled ? 6 : 4)), ndim, shape, axis, segments, operands);
  if (status < SCANLIB_OK || status > SCANLIB_E_OVERFLOW) std::abort();
  if (status == SCANLIB_OK) look_at(in, problem);
}

// How a gated recurrence's passes use an operand.
#define SCANLIB_FUZZ_USES(NAME, name, state, forward, backward, gated_forward, gated_backward) \
  {gated_forward, gated_backward},
constexpr int kGatedUses[SCANLIB_ROLES][2] = {SCANLIB_ROLE_TABLE(SCANLIB_FUZZ_USES)};

// The same of gates.
void unshaped_gates(Bytes &in) {
  auto number = [&] { return in.one_in(12) ? in.wide() : in.one_in(6) ? in.below(3) - 2 : in.below(40); };
  scanlib_gates g;
  g.candidate = int32_t(in.below(SCANLIB_CANDIDATES + (in.one_in(9) ? 3 : 0)));
  g.reading = int32_t(in.below(SCANLIB_READINGS + (in.one_in(9) ? 3 : 0)));
  g.complement = int32_t(in.below(3));
  for (int64_t *each : {&g.outer, &g.time, &g.inner, &g.width, &g.segments, &g.row, &g.at_decay, &g.at_input,
                        &g.at_output, &g.at_candidate})
    *each = number();
  if (!in.one_in(3)) {  // gates inside of a row
    g.width = in.below(9);
    g.row = 4 * g.width + in.below(5);
    int64_t at = 0;
    for (int64_t *each : {&g.at_candidate, &g.at_decay, &g.at_input, &g.at_output}) *each = g.width * at++;
    if (in.one_in(2)) g.at_input = -1;
  }
  const bool backward = in.one_in(2), garbled = in.one_in(4);
  const int64_t starts = in.below(4);
  int32_t given[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const int use = kGatedUses[role][backward];
    given[role] = use != SCANLIB_UNUSED && !(use & SCANLIB_OPTIONAL && in.one_in(2));
    if (role == SCANLIB_RESET) given[role] = starts == 1;
    if (role == SCANLIB_OFFSETS) given[role] = starts == 2 ? SCANLIB_I32 + int32_t(in.below(2)) : SCANLIB_ABSENT;
    if (role == SCANLIB_Y && !backward) given[role] = g.reading == SCANLIB_GATED;
    if (garbled && in.one_in(5)) given[role] = int32_t(in.below(11));
  }
  scanlib_problem problem;
  const int32_t flags = in.one_in(9) ? int32_t(in.below(8)) : SCANLIB_OPENMP * int32_t(in.below(2));
  const int status = scanlib_gated_problem_init(&problem, flags, int32_t(in.below(9)), &g, given);
  if (status < SCANLIB_OK || status > SCANLIB_E_OVERFLOW) std::abort();
  if (status == SCANLIB_OK) look_at(in, problem);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Bytes in(data, size);
  if (in.one_in(5)) {
    in.one_in(2) ? unshaped_gates(in) : unshaped(in);
    return 0;
  }
  static const char *const isas[] = {"baseline", "avx2", "avx512", "neon"};
  scanlib_cpu_select_isa(isas[in.below(4)]);  // where refused, the one before stays
  const Case c = decode(in);
  const std::string wrong = c.given(SCANLIB_OFFSETS) && in.one_in(3) ? lie(in, c) : check(c);
  if (!wrong.empty()) {
    std::fprintf(stderr, "%s\n  in %s\n", wrong.c_str(), describe(c).c_str());
    std::abort();
  }
  return 0;
}
