#include "gated_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace scanlib_tests {
namespace {

double sigmoid(double v) { return v < 0 ? std::exp(v) / (1 + std::exp(v)) : 1 / (1 + std::exp(-v)); }

double candidate(int32_t kind, double v) {
  switch (kind) {
    case SCANLIB_TANH:
      return std::tanh(v);
    case SCANLIB_ELU:
      return v > 0 ? v : std::expm1(v);
    case SCANLIB_POSITIVE:
      return v >= 0 ? v + 0.5 : sigmoid(v);
    default:
      return v;
  }
}

// Numbers in memory of exactly their size, poisoned where they are an output, at a place that is aligned to them and no more.
template <class T>
class Numbers {
 public:
  explicit Numbers(int64_t count) : values_(size_t(count)) { fill(0x5a); }
  void fill(int byte) {
    if (count()) std::memset(static_cast<void *>(get()), byte, values_.size() * sizeof(T));
  }
  void draw(Random &random, double scale) {
    for (T &value : values_) value = T(scale * random.unit());
  }
  // NaN now and then, and where they may be infinite also that.
  void spoil(Random &random, int64_t one_in, bool infinite) {
    const double special[] = {NAN, INFINITY, -INFINITY};
    for (T &value : values_)
      if (random.below(one_in) == 0) value = T(special[random.below(infinite ? 3 : 1)]);
  }
  T *get() { return values_.data(); }
  const T *get() const { return values_.data(); }
  T operator[](int64_t i) const { return values_[size_t(i)]; }
  bool operator==(const Numbers &other) const {
    return count() == other.count() &&
           (count() == 0 || std::memcmp(get(), other.get(), values_.size() * sizeof(T)) == 0);
  }
  int64_t count() const { return int64_t(values_.size()); }

 private:
  std::vector<T> values_;
};

// Where the right number is none, what was found must be none either.
template <class T>
bool near(const Numbers<T> &found, const std::vector<double> &right) {
  const double tolerance = sizeof(T) == 4 ? 2e-4 : 1e-11;
  for (int64_t i = 0; i < found.count(); ++i) {
    const double is = double(found[i]), should = right[size_t(i)];
    if (std::isfinite(should) ? !(std::fabs(is - should) <= tolerance * (1 + std::fabs(should))) : std::isfinite(is))
      return false;
  }
  return true;
}

constexpr bool kOffsets = true;  // whether gated recurrences take them yet

template <class T>
std::string check_as(scanlib_gates &g, int32_t flags, int threads_, Random &random, bool with_states) {
  // Where segments start: sorted, now and then the same number again.
  const bool packed = kOffsets && random.below(3) == 0, wide = packed && random.below(2);
  if (packed) g.segments = std::max<int64_t>(random.below(random.below(3) ? 6 : 2 * g.time + 2), g.time ? 1 : 0);
  const int64_t segments = packed ? g.segments : 1;
  std::vector<int64_t> offsets(size_t(segments) + 1, 0);
  for (int64_t i = 1; i < segments; ++i)
    offsets[size_t(i)] = random.below(4) ? random.below(g.time + 1) : offsets[size_t(random.below(i))];
  if (segments > 0) offsets.back() = g.time;
  std::sort(offsets.begin(), offsets.end());
  const std::vector<int32_t> narrow_offsets(offsets.begin(), offsets.end());

  const int64_t rows = g.outer * g.time * g.inner, all = rows * g.width;
  const int64_t states = g.outer * segments * g.inner * g.width;
  const bool gated = g.reading == SCANLIB_GATED, before = g.reading == SCANLIB_BEFORE;
  Numbers<T> columns(rows * g.row), h0(states), grad(all), grad_final(states);
  columns.draw(random, 4);
  h0.draw(random, 1);
  grad.draw(random, 1);
  grad_final.draw(random, 1);
  // The first step of a sequence too, and others now and then.
  const bool with_resets = !packed && random.below(2) != 0;
  std::vector<uint8_t> reset(size_t(with_resets ? rows : 0));
  // What is NaN or infinite before a start may not cross it, in either direction.
  if ((with_resets || packed) && random.below(3) == 0) {
    columns.spoil(random, 20 * g.row, false);
    h0.spoil(random, 4, true);
    grad.spoil(random, 20 * g.width, true);
    grad_final.spoil(random, 4, true);
  }
  for (uint8_t &each : reset) each = random.below(4) ? 0 : uint8_t(1 + random.below(255));

  // The same step by step, in double, and its derivatives by hand.
  std::vector<double> h(size_t(all), 0), y(size_t(all), 0), final_state(size_t(states), 0);
  std::vector<double> grad_columns(size_t(rows * g.row), 0), grad_h0(size_t(states), 0);
  for (int64_t s = 0; s < states; ++s) {
    const int64_t j = s % g.width, i = s / g.width % g.inner, number = s / (g.width * g.inner);
    const int64_t o = number / segments, segment = number % segments;
    const int64_t begin = offsets[size_t(segment)], end = offsets[size_t(segment) + 1];
    auto place = [&](int64_t t) { return (o * g.time + t) * g.inner + i; };
    auto of = [&](int64_t t, int64_t at) { return double(columns[place(t) * g.row + at + j]); };
    const double sign = g.complement ? -1 : 1;
    auto cut = [&](int64_t t) { return with_resets && reset[size_t(place(t))]; };
    std::vector<double> state{with_states ? double(h0[s]) : 0};
    for (int64_t t = begin; t < end; ++t) {
      const double f = sigmoid(sign * of(t, g.at_decay)), z = candidate(g.candidate, of(t, g.at_candidate));
      const double in = g.at_input < 0 ? 1 - f : sigmoid(of(t, g.at_input));
      state.push_back((cut(t) ? 0 : f * state.back()) + in * z);
      const size_t at = size_t(place(t) * g.width + j);
      h[at] = !before ? state.back() : cut(t) ? 0 : state[size_t(t - begin)];
      if (gated) y[at] = sigmoid(of(t, g.at_output)) * h[at];
    }
    final_state[size_t(s)] = state.back();
    double carry = with_states ? double(grad_final[s]) : 0;
    for (int64_t t = end - 1; t >= begin; --t) {
      const double f = sigmoid(sign * of(t, g.at_decay)), v = of(t, g.at_candidate), z = candidate(g.candidate, v);
      const double in = g.at_input < 0 ? 1 - f : sigmoid(of(t, g.at_input));
      auto to = [&](int64_t at) -> double & { return grad_columns[size_t(place(t) * g.row + at + j)]; };
      auto incoming = [&](int64_t step) { return double(grad[place(step) * g.width + j]); };
      double gh = carry;
      if (gated) {
        const double out = sigmoid(of(t, g.at_output));
        to(g.at_output) = incoming(t) * state[size_t(t - begin) + 1] * out * (1 - out);
        gh += incoming(t) * out;
      } else if (!before) {
        gh += incoming(t);
      } else if (t + 1 < end && !cut(t + 1)) {
        gh += incoming(t + 1);
      }
      const double step = 1e-6,
                   slope = (candidate(g.candidate, v + step) - candidate(g.candidate, v - step)) / (2 * step);
      double gf = cut(t) ? 0 : gh * state[size_t(t - begin)];
      if (g.at_input < 0)
        gf -= gh * z;
      else
        to(g.at_input) = gh * z * in * (1 - in);
      to(g.at_decay) = sign * gf * f * (1 - f);
      to(g.at_candidate) = gh * in * slope;
      carry = cut(t) ? 0 : f * gh;
    }
    if (before && begin < end && !cut(begin)) carry += double(grad[place(begin) * g.width + j]);
    grad_h0[size_t(s)] = carry;
  }

  Numbers<T> found_h(all), found_y(gated ? all : 0), found_final(with_states ? states : 0);
  Numbers<T> found_columns(rows * g.row), found_h0(with_states ? states : 0);
  auto address = [](Numbers<T> &numbers) -> const void * { return numbers.get(); };
  for (int threads : {1, threads_}) {
    Numbers<T> one_h = found_h, one_y = found_y, one_final = found_final, one_columns = found_columns,
               one_h0 = found_h0;
    one_columns.fill(0);  // gaps between the gates stay as they are
    const void *forward[SCANLIB_ROLES] = {}, *backward[SCANLIB_ROLES] = {};
    int32_t in_forward[SCANLIB_ROLES] = {}, in_backward[SCANLIB_ROLES] = {};
    auto give = [&](int32_t given, int role, const void *at, bool to_forward, bool to_backward) {
      if (given && to_forward) forward[role] = at, in_forward[role] = given;
      if (given && to_backward) backward[role] = at, in_backward[role] = given;
    };
    give(true, SCANLIB_A, address(columns), true, true);
    give(true, SCANLIB_H, address(one_h), true, true);
    give(with_states, SCANLIB_H0, address(h0), true, true);
    give(with_states, SCANLIB_FINAL, address(one_final), true, false);
    give(with_resets, SCANLIB_RESET, reset.data(), true, true);
    const void *const where = wide ? static_cast<const void *>(offsets.data()) : narrow_offsets.data();
    give(!packed ? SCANLIB_ABSENT : wide ? SCANLIB_I64 : SCANLIB_I32, SCANLIB_OFFSETS, where, true, true);
    give(gated, SCANLIB_Y, address(one_y), true, false);
    give(true, SCANLIB_GRAD_H, address(grad), false, true);
    give(with_states, SCANLIB_GRAD_FINAL, address(grad_final), false, true);
    give(true, SCANLIB_GRAD_A, address(one_columns), false, true);
    give(with_states, SCANLIB_GRAD_H0, address(one_h0), false, true);
    auto run = [&](const int32_t *given, const void *const *pointers) {
      scanlib_problem problem;
      const int32_t dtype = sizeof(T) == 4 ? SCANLIB_F32 : SCANLIB_F64;
      if (int status = scanlib_gated_problem_init(&problem, flags, dtype, &g, given)) return status;
      problem.threads = threads;
      return scanlib_cpu_run(&problem, pointers);
    };
    if (int status = run(in_forward, forward)) return "forward: " + std::string(scanlib_status_string(status));
    if (int status = run(in_backward, backward)) return "backward: " + std::string(scanlib_status_string(status));
    if (threads == 1) {
      found_h = one_h, found_y = one_y, found_final = one_final, found_columns = one_columns, found_h0 = one_h0;
    } else if (!(one_h == found_h && one_y == found_y && one_final == found_final && one_columns == found_columns &&
                 one_h0 == found_h0)) {
      return "the bits depend on the number of threads";
    }
  }
  if (!near(found_h, h)) return "wrong states";
  if (gated && !near(found_y, y)) return "wrong output";
  if (with_states && !near(found_final, final_state)) return "wrong final state";
  if (with_states && !near(found_h0, grad_h0)) return "wrong gradient of h0";
  // The slopes by hand are differences.
  for (int64_t i = 0; i < found_columns.count(); ++i) {
    const double right = grad_columns[size_t(i)], tolerance = sizeof(T) == 4 ? 5e-4 : 1e-6;
    if (std::isfinite(right) && !(std::fabs(double(found_columns[i]) - right) <= tolerance * (1 + std::fabs(right))))
      return "wrong gradient of the columns";
  }
  return "";
}

}  // namespace

std::string check_gates(Random &random) {
  scanlib_gates g = {};
  const bool single = random.below(2) != 0;
  g.complement = int32_t(random.below(2));
  const int32_t flags = random.below(2) ? SCANLIB_OPENMP : 0;
  g.candidate = int32_t(random.below(SCANLIB_CANDIDATES));
  g.reading = int32_t(random.below(SCANLIB_READINGS));
  const int threads = 2 + int(random.below(4));
  const int64_t most = random.below(6) ? 6000 : 60000;
  auto extent = [&](int64_t largest) { return random.below(30) ? 1 + random.below(std::max<int64_t>(1, largest)) : 0; };
  g.width = extent(random.below(3) ? 70 : 600);
  g.time = extent(std::min<int64_t>(most / std::max<int64_t>(1, g.width), random.below(2) ? 40 : 3000));
  const int64_t left = most / std::max<int64_t>(1, g.width * std::max<int64_t>(1, g.time));
  g.inner = extent(random.below(2) ? 1 : left);
  g.outer = extent(left / std::max<int64_t>(1, g.inner));
  // The blocks in any order, with gaps.
  int64_t next = random.below(3), *places[] = {&g.at_decay, &g.at_input, &g.at_output, &g.at_candidate};
  for (int i = 3; i > 0; --i) std::swap(places[i], places[random.below(i + 1)]);
  g.at_input = g.at_output = -1;
  const bool own_input = random.below(2) != 0;
  for (int64_t *place : places) {
    if (place == &g.at_input && !own_input) continue;
    if (place == &g.at_output && g.reading != SCANLIB_GATED) continue;
    *place = next;
    next += g.width + random.below(3) / 2;
  }
  g.row = next + random.below(2);
  const bool with_states = random.below(3) != 0;
  std::string wrong = single ? check_as<float>(g, flags, threads, random, with_states)
                             : check_as<double>(g, flags, threads, random, with_states);
  if (wrong.empty()) return "";
  for (int64_t number : {int64_t(single), int64_t(flags), int64_t(g.complement), int64_t(g.candidate),
                         int64_t(g.reading), int64_t(threads), g.outer, g.time, g.inner, g.width, g.segments, g.row,
                         g.at_decay, g.at_input, g.at_output, g.at_candidate})
    wrong += " " + std::to_string(number);
  return wrong;
}

}  // namespace scanlib_tests
