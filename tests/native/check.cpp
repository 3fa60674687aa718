#include "check.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

namespace scanlib_tests {
namespace {

using Real = long double;

struct Number {
  Real re = 0, im = 0;
};

Real magnitude(Number v) { return std::fabs(v.re) + std::fabs(v.im); }
bool finite(Number v) { return std::isfinite(v.re) && std::isfinite(v.im); }
Number add(Number a, Number b) { return {a.re + b.re, a.im + b.im}; }

// Dtypes: conversion, and the relative error of rounding to them.
double half_to_double(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 31  ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? std::ldexp(fraction, -24)
                                 : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -value : value;
}

double bfloat_to_double(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

Number load(int32_t dtype, const unsigned char *at) {
  uint16_t bits;
  float f[2] = {0, 0};
  double d[2] = {0, 0};
  switch (dtype) {
    case SCANLIB_F16:
      std::memcpy(&bits, at, 2);
      return {Real(half_to_double(bits)), 0};
    case SCANLIB_BF16:
      std::memcpy(&bits, at, 2);
      return {Real(bfloat_to_double(bits)), 0};
    case SCANLIB_F32:
    case SCANLIB_C64:
      std::memcpy(f, at, dtype == SCANLIB_F32 ? 4 : 8);
      return {Real(f[0]), Real(f[1])};
    default:
      std::memcpy(d, at, dtype == SCANLIB_F64 ? 8 : 16);
      return {Real(d[0]), Real(d[1])};
  }
}

// Only for inputs, where truncation to 16 bits is as good as rounding.
void store(int32_t dtype, unsigned char *at, double re, double im) {
  float f[2] = {float(re), float(im)};
  double d[2] = {re, im};
  uint32_t wide;
  std::memcpy(&wide, &f[0], 4);
  uint16_t bits = uint16_t(wide >> 16);
  switch (dtype) {
    case SCANLIB_F16: {
      int exponent = int(wide >> 23 & 255) - 127 + 15;
      uint16_t sign = uint16_t(wide >> 16 & 0x8000);
      bits = std::isnan(re)  ? 0x7e00
             : exponent > 30 ? uint16_t(sign | 0x7c00)
             : exponent <= 0 ? uint16_t(sign | uint16_t(std::ldexp(std::fabs(re), 24)))
                             : uint16_t(sign | exponent << 10 | (wide >> 13 & 1023));
      std::memcpy(at, &bits, 2);
      break;
    }
    case SCANLIB_BF16:
      if (std::isnan(re)) bits = 0x7fc0;
      std::memcpy(at, &bits, 2);
      break;
    case SCANLIB_F32:
    case SCANLIB_C64:
      std::memcpy(at, f, dtype == SCANLIB_F32 ? 4 : 8);
      break;
    default:
      std::memcpy(at, d, dtype == SCANLIB_F64 ? 8 : 16);
  }
}

bool is_double(int32_t dtype) { return dtype == SCANLIB_F64 || dtype == SCANLIB_C128; }

Real rounding(int32_t dtype) {
  switch (dtype) {
    case SCANLIB_F16:
      return 0x1p-10L;
    case SCANLIB_BF16:
      return 0x1p-7L;
    default:
      return is_double(dtype) ? 0x1p-52L : 0x1p-23L;
  }
}

Real smallest(int32_t dtype) {
  return dtype == SCANLIB_F16 ? 0x1p-24L
         : is_double(dtype)   ? Real(std::numeric_limits<double>::denorm_min())
                              : 0x1p-126L;
}

Real largest(int32_t dtype) { return dtype == SCANLIB_F16 ? 65504 : std::numeric_limits<float>::max(); }

// The extent of an operand along an axis. grad_a has one element where it is summed, over an empty axis too.
int64_t own_extent(const Case &c, int role, size_t d) {
  return role == SCANLIB_GRAD_A && c.operand[role].strides[d] == 0 ? 1 : c.shape[d];
}

// The memory of one operand: what its strides reach, and nothing more.
class Memory {
 public:
  void place(const Case &c, int role) {
    const Operand &operand = c.operand[role];
    size_ = dtype_bytes(operand.dtype);
    pitch_ = operand.pitch();
    slack_ = operand.misaligned;
    int64_t high = 0;
    bool empty = false;
    for (size_t d = 0; d < c.shape.size(); ++d) {
      if (is_state(role) && int(d) == c.axis) continue;
      int64_t extent = own_extent(c, role, d);
      empty |= extent == 0;
      int64_t reach = operand.strides[d] * (extent - 1);
      (reach < 0 ? low_ : high) += reach;
    }
    if (empty) low_ = high = 0;
    count_ = empty ? 0 : high - low_ + 1;
    bytes_ = std::unique_ptr<unsigned char, decltype(&std::free)>(
        static_cast<unsigned char *>(std::malloc(bytes() + size_t(slack_ + (count_ == 0)))), &std::free);
  }
  bool given() const { return size_ != 0; }
  int64_t count() const { return count_; }
  int64_t size() const { return size_; }
  int64_t pitch() const { return pitch_; }
  size_t bytes() const { return count_ ? size_t((count_ - 1) * pitch_ + size_) : 0; }
  unsigned char *start() const { return bytes_.get() + slack_; }
  int64_t slot(int64_t offset) const { return offset - low_; }
  unsigned char *at(int64_t offset) const { return start() + slot(offset) * pitch_; }
  void *pointer() const { return given() ? at(0) : nullptr; }

 private:
  int64_t size_ = 0, pitch_ = 0, slack_ = 0, low_ = 0, count_ = 0;
  std::unique_ptr<unsigned char, decltype(&std::free)> bytes_{nullptr, &std::free};
};

// What an output must hold: one entry for each slot of its memory.
struct Expected {
  struct Entry {
    Number value;
    Real error = 0;
    Real total = 0;        // of the magnitudes added up
    bool element = false;  // else a hole that must stay as it was
    bool any = false;      // complex arithmetic on NaN and Inf: no pattern is promised
  };
  std::vector<Entry> entries;
};

struct Run {
  const Case &c;
  Memory memory[SCANLIB_ROLES];
  Expected expected[SCANLIB_ROLES];

  explicit Run(const Case &c_) : c(c_) {
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      if (c.operand[role].dtype == SCANLIB_ABSENT) continue;
      memory[role].place(c, role);
      if (is_output(role, c.backward)) expected[role].entries.resize(size_t(memory[role].count()));
    }
  }

  void fill_inputs() {
    Random random(c.seed);
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      const Memory &m = memory[role];
      if (!m.given() || is_output(role, c.backward)) continue;
      const int32_t dtype = c.operand[role].dtype;
      const double scale = is_complex(dtype) ? 0.5 : 1.0;
      for (int64_t i = 0; i < m.count(); ++i) {
        double re = random.unit(), im = random.unit();
        if (role == SCANLIB_A && c.values == Values::kSigns) re = double(random.below(3) - 1), im = 0;
        if (role == SCANLIB_A && c.values == Values::kNearOne) re = 1 - std::fabs(re) / 1024, im = 0;
        if (c.values == Values::kSpecial && random.below(97) == 0) {
          const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0};
          re = special[random.below(5)];
        }
        const bool exact = role == SCANLIB_A && c.values != Values::kUnit;
        store(dtype, m.start() + i * m.pitch(), exact ? re : re * scale, im * scale);
      }
    }
  }

  Number read(int role, int64_t offset) const { return load(c.operand[role].dtype, memory[role].at(offset)); }

  void expect(int role, int64_t offset, Number value, Real error, bool any) {
    Expected::Entry &entry = expected[role].entries[size_t(memory[role].slot(offset))];
    entry.value = add(entry.value, value);
    entry.error += error;
    if (entry.element) entry.error += 0x1p-53L * (entry.total + magnitude(value));  // sums are kept in doubles
    entry.total += magnitude(value);
    entry.any |= any;
    entry.element = true;
  }

  void expect_zeros(int role) {
    std::vector<int64_t> index(c.shape.size(), 0);
    if (memory[role].count() == 0) return;
    for (;;) {
      int64_t offset = 0;
      for (size_t d = 0; d < index.size(); ++d) offset += index[d] * c.operand[role].strides[d];
      expect(role, offset, Number{}, 0, false);
      size_t d = index.size();
      while (d > 0 && ++index[d - 1] >= own_extent(c, role, d - 1)) index[--d] = 0;
      if (d == 0) return;
    }
  }

  // The serial loops, in long double, with a running bound of the error that the accumulation type allows.
  void compute() {
    bool complex = false;
    for (const Operand &operand : c.operand) complex |= is_complex(operand.dtype);
    const int lead = c.backward ? SCANLIB_GRAD_X : SCANLIB_H;
    const Real unit = is_double(c.operand[lead].dtype) ? 0x1p-50L : 0x1p-21L;
    const bool conjugate = c.flags & SCANLIB_CONJUGATE, reverse = c.flags & SCANLIB_REVERSE;
    const int64_t T = c.shape[size_t(c.axis)];
    auto times = [&](Number a, Number b) {
      if (!complex) return Number{a.re * b.re, 0};
      return Number{a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    };
    auto bar = [&](Number v) { return conjugate && complex ? Number{v.re, -v.im} : v; };

    const size_t ndim = c.shape.size();
    std::vector<int64_t> index(ndim, 0);
    bool empty = false, lanes = true;
    for (size_t d = 0; d < ndim; ++d) {
      empty |= c.shape[d] == 0;
      lanes &= c.shape[d] != 0 || int(d) == c.axis;
    }
    if (empty && c.backward) expect_zeros(SCANLIB_GRAD_A);
    if (!lanes) return;
    for (;;) {
      int64_t base[SCANLIB_ROLES] = {}, step[SCANLIB_ROLES] = {};
      for (int role = 0; role < SCANLIB_ROLES; ++role) {
        if (!memory[role].given()) continue;
        for (size_t d = 0; d < ndim; ++d)
          if (int(d) != c.axis) base[role] += index[d] * c.operand[role].strides[d];
        if (!is_state(role)) step[role] = c.operand[role].strides[size_t(c.axis)];
      }
      auto place = [&](int role, int64_t k) { return base[role] + (reverse ? T - 1 - k : k) * step[role]; };
      const Number h0 = memory[SCANLIB_H0].given() ? read(SCANLIB_H0, base[SCANLIB_H0]) : Number{};
      bool any = false;
      if (!c.backward) {
        Number state = h0;
        Real size = magnitude(state), error = 0;
        for (int64_t k = 0; k < T; ++k) {
          const Number a = read(SCANLIB_A, place(SCANLIB_A, k)), x = read(SCANLIB_X, place(SCANLIB_X, k));
          state = add(times(a, state), x);
          size = magnitude(a) * size + magnitude(x);
          error = magnitude(a) * error + unit * size;
          any |= complex && !finite(state);
          expect(SCANLIB_H, place(SCANLIB_H, k), state, error, any);
        }
        if (memory[SCANLIB_FINAL].given()) expect(SCANLIB_FINAL, base[SCANLIB_FINAL], state, error, any);
      } else {
        const bool with_final = memory[SCANLIB_GRAD_FINAL].given();
        Number state = with_final ? read(SCANLIB_GRAD_FINAL, base[SCANLIB_GRAD_FINAL]) : Number{};
        Real size = magnitude(state), error = 0;
        for (int64_t k = T - 1; k >= 0; --k) {
          const Number g = read(SCANLIB_GRAD_H, place(SCANLIB_GRAD_H, k));
          const Number h = k > 0 ? read(SCANLIB_H, place(SCANLIB_H, k - 1)) : h0;
          state = add(state, g);
          size += magnitude(g);
          error += unit * size;
          any |= complex && (!finite(state) || !finite(h));
          expect(SCANLIB_GRAD_X, place(SCANLIB_GRAD_X, k), state, error, any);
          expect(SCANLIB_GRAD_A, place(SCANLIB_GRAD_A, k), times(state, bar(h)), (error + unit * size) * magnitude(h),
                 any);
          const Number a = read(SCANLIB_A, place(SCANLIB_A, k));
          state = times(bar(a), state);
          size *= magnitude(a);
          error = magnitude(a) * error + unit * size;
        }
        any |= complex && !finite(state);
        if (memory[SCANLIB_GRAD_H0].given()) expect(SCANLIB_GRAD_H0, base[SCANLIB_GRAD_H0], state, error, any);
      }
      size_t d = ndim;
      while (d > 0 && (int(d - 1) == c.axis || ++index[d - 1] == c.shape[d - 1])) index[--d] = 0;
      if (d == 0) return;
    }
  }

  std::string compare() const {
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      if (!memory[role].given() || !is_output(role, c.backward)) continue;
      const int32_t dtype = c.operand[role].dtype;
      const std::vector<Expected::Entry> &entries = expected[role].entries;
      for (size_t i = 0; i < entries.size(); ++i) {
        const Expected::Entry &entry = entries[i];
        if (!entry.element || entry.any) continue;
        const Number got = load(dtype, memory[role].start() + int64_t(i) * memory[role].pitch());
        for (int part = 0; part < (is_complex(dtype) ? 2 : 1); ++part) {
          const Real want = part ? entry.value.im : entry.value.re, have = part ? got.im : got.re;
          const Real bound = 4 * entry.error + rounding(dtype) * std::fabs(want) + smallest(dtype);
          const bool right = std::isnan(want)   ? std::isnan(have)
                             : std::isinf(want) ? have == want
                             : std::isinf(have) ? std::fabs(want) + bound > largest(dtype) && (have > 0) == (want > 0)
                                                : std::fabs(have - want) <= bound;
          if (right) continue;
          char text[200];
          std::snprintf(text, sizeof text, "%s[%zu]%s is %.9Lg, expected %.9Lg within %.3Lg", role_name(role), i,
                        part ? ".imag" : "", have, want, bound);
          return text;
        }
      }
    }
    return "";
  }
};

}  // namespace

int dtype_bytes(int32_t dtype) {
  static const int bytes[] = {0, 2, 2, 4, 8, 8, 16, 1};
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
bool is_output(int role, bool backward) { return kRoles[role].use[backward] & SCANLIB_WRITTEN; }
const char *role_name(int role) { return kRoles[role].name; }

std::vector<int64_t> contiguous(const std::vector<int64_t> &shape, int axis, bool state) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    if (state && int(d) == axis) continue;
    strides[d] = step;
    step *= shape[d] > 0 ? shape[d] : 1;
  }
  return strides;
}

std::string check(const Case &c) {
  scanlib_operand operands[SCANLIB_ROLES] = {};
  std::vector<int64_t> strides[SCANLIB_ROLES];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (c.operand[role].dtype == SCANLIB_ABSENT) continue;
    for (int64_t stride : c.operand[role].strides)
      strides[role].push_back(stride == INT64_MIN ? stride : stride * c.operand[role].pitch());
    operands[role] = {c.operand[role].dtype, 0, strides[role].data()};
  }
  scanlib_problem problem;
  const int32_t ndim = int32_t(c.shape.size());
  int status = scanlib_problem_init(&problem, c.flags, ndim, c.shape.data(), c.axis, operands);
  if (status != SCANLIB_OK) return std::string("scanlib_problem_init: ") + scanlib_status_string(status);

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
    status = scanlib_cpu_run(&problem, passed);
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

std::string describe(const Case &c) {
  std::string text = std::string(c.backward ? "backward" : "forward") + " isa=" + scanlib_cpu_isa() + " shape=(";
  for (int64_t extent : c.shape) text += std::to_string(extent) + ",";
  text += ") axis=" + std::to_string(c.axis) + " flags=" + std::to_string(c.flags) +
          " threads=" + std::to_string(c.threads) + " values=" + std::to_string(int(c.values)) +
          " seed=" + std::to_string(c.seed) + (c.in_place ? " in place" : "") + (c.holders ? " holders" : "");
  static const char *dtypes[] = {"", "f16", "bf16", "f32", "f64", "c64", "c128"};
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const Operand &operand = c.operand[role];
    if (operand.dtype == SCANLIB_ABSENT) continue;
    text += std::string("\n  ") + role_name(role) + ": " + dtypes[operand.dtype] + " strides=(";
    for (int64_t stride : operand.strides) text += std::to_string(stride) + ",";
    text += ")";
    if (operand.misaligned) text += " misaligned by " + std::to_string(operand.misaligned);
    if (operand.gap) text += " gaps of " + std::to_string(operand.gap) + " bytes";
  }
  return text;
}

}  // namespace scanlib_tests
