#include "check.h"

#include <algorithm>
#include <cstring>

#include "serial_run.h"

namespace scanlib_tests {

int dtype_bytes(int32_t dtype) {
  static const int bytes[] = {0, 2, 2, 4, 8, 8, 16, 1, 4, 8};
  return bytes[dtype];
}
int64_t Operand::pitch() const { return dtype_bytes(dtype) + gap; }
bool is_complex(int32_t dtype) { return dtype == SCANLIB_C64 || dtype == SCANLIB_C128; }
#define SCANLIB_TEST_ROLE(NAME, name, state, forward, backward, ...) {#name, state, {forward, backward}},
const struct {
  const char *name;
  bool state;
  int use[2];
} kRoles[] = {SCANLIB_ROLE_TABLE(SCANLIB_TEST_ROLE)};
bool is_state(int role) { return kRoles[role].state; }
bool is_used(int role, bool backward) { return kRoles[role].use[backward] != SCANLIB_UNUSED; }
bool is_start(int role) { return role == SCANLIB_RESET || role == SCANLIB_OFFSETS; }
bool is_output(int role, bool backward) { return kRoles[role].use[backward] & SCANLIB_WRITTEN; }
const char *role_name(int role) { return kRoles[role].name; }

std::vector<int64_t> Case::extents(int role) const {
  std::vector<int64_t> own = shape;
  int64_t &time = own[size_t(axis)];
  if (role == SCANLIB_OFFSETS) {
    std::fill(own.begin(), own.end(), 1);
    time = segments + 1;
  } else if (is_state(role)) {
    time = given(SCANLIB_OFFSETS) ? segments : 1;
  }
  for (size_t d = 0; role == SCANLIB_GRAD_A && d < operand[role].strides.size(); ++d)
    if (operand[role].strides[d] == 0) own[d] = 1;
  return own;
}

std::vector<int64_t> contiguous(const std::vector<int64_t> &extents) {
  std::vector<int64_t> strides(extents.size());
  int64_t step = 1;
  for (size_t d = extents.size(); d-- > 0;) {
    strides[d] = step;
    step *= std::max<int64_t>(extents[d], 1);
  }
  return strides;
}

namespace {

std::string init(const Case &c, scanlib_problem *problem) {
  scanlib_operand operands[SCANLIB_ROLES] = {};
  std::vector<int64_t> strides[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!c.given(role)) continue;
    for (int64_t stride : c.operand[role].strides)
      strides[role].push_back(stride == INT64_MIN ? stride : stride * c.operand[role].pitch());
    operands[role] = {c.operand[role].dtype, 0, strides[role].data()};
  }
  const int32_t ndim = int32_t(c.shape.size());
  const int status = scanlib_problem_init(problem, c.flags, ndim, c.shape.data(), c.axis, c.segments, operands);
  return status == SCANLIB_OK ? "" : std::string("scanlib_problem_init: ") + scanlib_status_string(status);
}

}  // namespace

std::string check(const Case &c) {
  scanlib_problem problem;
  std::string refused = init(c, &problem);
  if (!refused.empty()) return refused;

  char words[16];
  if (scanlib_cpu_describe(&problem, words, sizeof words) == 0) return "scanlib_cpu_describe has nothing to say";
  if (!std::memchr(words, 0, sizeof words)) return "scanlib_cpu_describe leaves its text without an end";

  Run run(c);
  run.fill_inputs();
  run.compute();
  Memory *const memory = run.memory;
  const Memory &x = memory[SCANLIB_X];
  std::vector<unsigned char> first[SCANLIB_ROLES];  // inputs: as they were; outputs: as the first call left them
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (!is_output(role, c.backward))
      first[role].assign(memory[role].start(), memory[role].start() + memory[role].bytes());
  void *pointers[SCANLIB_ROLES], *held[SCANLIB_ROLES][2], *passed[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    pointers[role] = memory[role].pointer();
    if (role == SCANLIB_H && c.in_place) pointers[role] = x.pointer();
    held[role][1] = pointers[role];
    passed[role] = c.holders && pointers[role] ? static_cast<void *>(held[role]) : pointers[role];
  }
  problem.holder_offset = c.holders ? int64_t(sizeof(void *)) : 0;

  for (int pass = 0; pass < 2; ++pass) {
    const unsigned char poison = pass ? 0x5a : 0xff;
    for (int role = 0; role < SCANLIB_ROLES; ++role)
      if (is_output(role, c.backward) && memory[role].bytes())
        std::memset(memory[role].start(), poison, memory[role].bytes());
    problem.threads = pass ? c.threads : 1;
    const int status = scanlib_cpu_run(&problem, passed);
    if (status != SCANLIB_OK) return std::string("the call: ") + scanlib_status_string(status);
    if (c.in_place) {  // x takes its old elements back, as if h had gone to memory of its own
      for (size_t i = 0; i < run.expected[SCANLIB_H].entries.size(); ++i) {
        if (!run.expected[SCANLIB_H].entries[i].element) continue;
        const size_t at = i * size_t(x.pitch()), size = size_t(x.size());
        std::memcpy(memory[SCANLIB_H].start() + at, x.start() + at, size);
        std::memcpy(x.start() + at, first[SCANLIB_X].data() + at, size);
      }
    }
    for (int role = 0; role < SCANLIB_ROLES; ++role)
      if (!is_output(role, c.backward) && memory[role].bytes() &&
          std::memcmp(first[role].data(), memory[role].start(), memory[role].bytes()))
        return std::string(role_name(role)) + ", an input, was written";

    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      if (!is_output(role, c.backward) || !memory[role].given()) continue;
      const Memory &m = memory[role];
      for (size_t i = 0; i < run.expected[role].entries.size(); ++i) {
        // What lies between two slots is no element's; nor is a slot that is none.
        const bool element = run.expected[role].entries[i].element;
        for (int64_t b = element ? m.size() : 0; b < m.pitch() && i * size_t(m.pitch()) + size_t(b) < m.bytes(); ++b)
          if (m.start()[int64_t(i) * m.pitch() + b] != poison)
            return std::string(role_name(role)) + " was written between its elements, slot " + std::to_string(i);
      }
    }
    std::string wrong = run.compare();
    if (!wrong.empty()) return wrong;
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      if (!is_output(role, c.backward)) continue;
      const Memory &m = memory[role];
      if (pass == 0) {
        first[role].assign(m.start(), m.start() + m.bytes());
        continue;
      }
      for (size_t i = 0; i < run.expected[role].entries.size(); ++i)
        if (run.expected[role].entries[i].element && std::memcmp(first[role].data() + i * size_t(m.pitch()),
                                                                 m.start() + i * size_t(m.pitch()), size_t(m.size())))
          return std::string(role_name(role)) + ": slot " + std::to_string(i) + " has other bits with " +
                 std::to_string(c.threads) + " threads than with 1, or was not written";
    }
  }
  return "";
}

std::string check_lie(const Case &c, int64_t number, int64_t value) {
  scanlib_problem problem;
  std::string refused = init(c, &problem);
  if (!refused.empty()) return refused;
  Run run(c);
  run.fill_inputs();
  run.set_offset(number, value);
  bool honest = run.offset(0) == 0 && run.offset(c.segments) == c.shape[size_t(c.axis)];
  for (int64_t i = 0; i < c.segments; ++i) honest = honest && run.offset(i) <= run.offset(i + 1);
  if (honest) return "";

  std::vector<unsigned char> before[SCANLIB_ROLES];
  const void *pointers[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const Memory &m = run.memory[role];
    if (is_output(role, c.backward) && m.bytes()) std::memset(m.start(), 0xff, m.bytes());
    before[role].assign(m.start(), m.start() + m.bytes());
    pointers[role] = m.pointer();
  }
  problem.threads = c.threads;
  const int status = scanlib_cpu_run(&problem, pointers);
  if (status != SCANLIB_E_OFFSETS) return std::string("offsets that lie: ") + scanlib_status_string(status);
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const Memory &m = run.memory[role];
    if (m.bytes() && std::memcmp(before[role].data(), m.start(), m.bytes()))
      return std::string(role_name(role)) + " was written by a call that was refused";
  }
  return "";
}

std::string describe(const Case &c) {
  std::string text = std::string(c.backward ? "backward" : "forward") + " isa=" + scanlib_cpu_isa() + " shape=(";
  for (int64_t extent : c.shape) text += std::to_string(extent) + ",";
  text += ") axis=" + std::to_string(c.axis) + " flags=" + std::to_string(c.flags) +
          " threads=" + std::to_string(c.threads) + " values=" + std::to_string(int(c.values)) +
          " seed=" + std::to_string(c.seed) + " segments=" + std::to_string(c.segments) +
          " resets=" + std::to_string(c.resets) + (c.in_place ? " in place" : "") + (c.holders ? " holders" : "");
  static const char *dtypes[] = {"", "f16", "bf16", "f32", "f64", "c64", "c128", "bool", "i32", "i64"};
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const Operand &operand = c.operand[role];
    if (!c.given(role)) continue;
    text += std::string("\n  ") + role_name(role) + ": " + dtypes[operand.dtype] + " strides=(";
    for (int64_t stride : operand.strides) text += std::to_string(stride) + ",";
    text += ")";
    if (operand.misaligned) text += " misaligned by " + std::to_string(operand.misaligned);
    if (operand.gap) text += " gaps of " + std::to_string(operand.gap) + " bytes";
  }
  return text;
}

}  // namespace scanlib_tests
