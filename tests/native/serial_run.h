// The operands of one call in memory, and what a serial loop in long double expects of its outputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "dtypes.h"

namespace scanlib_tests {

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
    const std::vector<int64_t> extents = c.extents(role);
    for (size_t d = 0; d < extents.size(); ++d) {
      empty |= extents[d] == 0;
      if (extents[d] < 2) continue;  // the stride may then be any number
      int64_t reach = operand.strides[d] * (extents[d] - 1);
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

// One call: its operands in memory, filled, and what the serial loop expects of its outputs.
struct Run {
  const Case &c;
  Memory memory[SCANLIB_ROLES];
  Expected expected[SCANLIB_ROLES];

  explicit Run(const Case &c_) : c(c_) {
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      if (!c.given(role)) continue;
      memory[role].place(c, role);
      if (is_output(role, c.backward)) expected[role].entries.resize(size_t(memory[role].count()));
    }
  }

  void fill_inputs() {
    Random random(c.seed);
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      const Memory &m = memory[role];
      if (!m.given() || is_output(role, c.backward)) continue;
      if (is_start(role)) {
        role == SCANLIB_RESET ? draw_resets(random) : draw_offsets(random);
        continue;
      }
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

  // Any byte but 0 is true.
  void draw_resets(Random &random) {
    const Memory &m = memory[SCANLIB_RESET];
    for (int64_t i = 0; i < m.count(); ++i) {
      const bool starts = random.below(65536) < c.resets;
      m.start()[i * m.pitch()] = starts ? uint8_t(1 + random.below(255)) : 0;
    }
  }
  // Sorted, now and then the same number again: a segment without steps.
  void draw_offsets(Random &random) {
    const Memory &m = memory[SCANLIB_OFFSETS];
    std::memset(m.start(), 0xee, m.bytes());
    const int64_t steps = c.shape[size_t(c.axis)];
    std::vector<int64_t> offsets(size_t(c.segments) + 1, 0);
    for (size_t i = 1; i < offsets.size(); ++i) {
      const int64_t again = random.below(4) ? -1 : random.below(int64_t(i));
      offsets[i] = again < 0 ? random.below(steps + 1) : offsets[size_t(again)];
    }
    if (c.segments > 0) offsets.back() = steps;
    std::sort(offsets.begin(), offsets.end());
    for (size_t i = 0; i < offsets.size(); ++i) set_offset(int64_t(i), offsets[i]);
  }

  unsigned char *offset_at(int64_t i) const {
    return memory[SCANLIB_OFFSETS].at(i * c.operand[SCANLIB_OFFSETS].strides[size_t(c.axis)]);
  }
  int64_t offset(int64_t i) const { return load_integer(c.operand[SCANLIB_OFFSETS].dtype, offset_at(i)); }
  void set_offset(int64_t i, int64_t value) { store_integer(c.operand[SCANLIB_OFFSETS].dtype, offset_at(i), value); }

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
    const std::vector<int64_t> extents = c.extents(role);
    std::vector<int64_t> index(c.shape.size(), 0);
    if (memory[role].count() == 0) return;
    for (;;) {
      int64_t offset = 0;
      for (size_t d = 0; d < index.size(); ++d) offset += index[d] * c.operand[role].strides[d];
      expect(role, offset, Number{}, 0, false);
      size_t d = index.size();
      while (d > 0 && ++index[d - 1] >= extents[d - 1]) index[--d] = 0;
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
      const bool packed = memory[SCANLIB_OFFSETS].given();
      for (int64_t segment = 0; segment < (packed ? c.segments : 1); ++segment) {
        // A segment is a call of its own.
        const int64_t begin = packed ? offset(segment) : 0, end = packed ? offset(segment + 1) : T, steps = end - begin;
        auto place = [&](int role, int64_t k) { return base[role] + (reverse ? end - 1 - k : begin + k) * step[role]; };
        auto state_at = [&](int role) {
          return base[role] + (packed ? segment * c.operand[role].strides[size_t(c.axis)] : 0);
        };
        // Whether nothing enters a step.
        auto starts = [&](int64_t k) {
          return memory[SCANLIB_RESET].given() && *memory[SCANLIB_RESET].at(place(SCANLIB_RESET, k)) != 0;
        };
        const Number h0 = memory[SCANLIB_H0].given() ? read(SCANLIB_H0, state_at(SCANLIB_H0)) : Number{};
        bool any = false;
        if (!c.backward) {
          Number state = h0;
          Real size = magnitude(state), error = 0;
          for (int64_t k = 0; k < steps; ++k) {
            if (starts(k)) state = {}, size = error = 0, any = false;
            const Number a = starts(k) ? Number{} : read(SCANLIB_A, place(SCANLIB_A, k));
            const Number x = read(SCANLIB_X, place(SCANLIB_X, k));
            state = add(times(a, state), x);
            size = magnitude(a) * size + magnitude(x);
            error = starts(k) ? 0 : magnitude(a) * error + unit * size;
            any |= complex && !finite(state);
            expect(SCANLIB_H, place(SCANLIB_H, k), state, error, any);
          }
          if (memory[SCANLIB_FINAL].given()) expect(SCANLIB_FINAL, state_at(SCANLIB_FINAL), state, error, any);
        } else {
          const bool with_final = memory[SCANLIB_GRAD_FINAL].given();
          Number state = with_final ? read(SCANLIB_GRAD_FINAL, state_at(SCANLIB_GRAD_FINAL)) : Number{};
          Real size = magnitude(state), error = 0;
          for (int64_t k = steps - 1; k >= 0; --k) {
            const Number g = read(SCANLIB_GRAD_H, place(SCANLIB_GRAD_H, k));
            const Number h = k > 0 ? read(SCANLIB_H, place(SCANLIB_H, k - 1)) : h0;
            state = add(state, g);
            size += magnitude(g);
            error += unit * size;
            any |= complex && !finite(state);
            expect(SCANLIB_GRAD_X, place(SCANLIB_GRAD_X, k), state, error, any);
            if (starts(k)) {
              expect(SCANLIB_GRAD_A, place(SCANLIB_GRAD_A, k), Number{}, 0, false);
              state = {}, size = error = 0, any = false;
              continue;
            }
            expect(SCANLIB_GRAD_A, place(SCANLIB_GRAD_A, k), times(state, bar(h)), (error + unit * size) * magnitude(h),
                   any || (complex && !finite(h)));
            const Number a = read(SCANLIB_A, place(SCANLIB_A, k));
            state = times(bar(a), state);
            size *= magnitude(a);
            error = magnitude(a) * error + unit * size;
          }
          any |= complex && !finite(state);
          if (memory[SCANLIB_GRAD_H0].given()) expect(SCANLIB_GRAD_H0, state_at(SCANLIB_GRAD_H0), state, error, any);
        }
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
          const bool exact = entry.error == 0 && want == 0;  // as grad_a is where a sequence starts
          const Real bound = exact ? 0 : 4 * entry.error + rounding(dtype) * std::fabs(want) + smallest(dtype);
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

}  // namespace scanlib_tests
