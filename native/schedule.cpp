#include "schedule.h"

#include <algorithm>

namespace scanlib {
namespace {

constexpr int64_t kLineBytes = 64;             // narrower rows of lanes are walked as rows along time
constexpr int64_t kStateBytes = 16 * 1024;     // the most state a group carries: half of a small L1 cache
constexpr int64_t kRowSteps = 4096;            // short rows are grouped until they have so many steps together
constexpr int64_t kShortRow = 256;             // steps up to which neighbouring rows are walked side by side
constexpr int64_t kManyRows = 8;               // ... if a group has so many
constexpr int64_t kEnoughGroups = 8;           // with so many groups time is not split
constexpr int64_t kSegmentBytes = 128 * 1024;  // a segment of one operand: two passes over it must hit the L2 cache
constexpr int64_t kWorthSplitting = 1 << 19;   // bytes of one operand below which time is not split

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether grad_a has one sum for all of an axis.
bool summed(const scanlib_problem &p, const scanlib_axis &axis) {
  return given(p, SCANLIB_GRAD_A) && axis.stride[SCANLIB_GRAD_A] == 0 && axis.extent > 1;
}

Reduce reduction(const scanlib_problem &p) {
  if (summed(p, p.time)) return Reduce::Time;
  bool any = summed(p, p.inner);
  for (int d = 0; d < p.outer_rank; ++d) any = any || summed(p, p.outer[d]);
  return any ? Reduce::Lanes : Reduce::None;
}

}  // namespace

Schedule make_schedule(const scanlib_problem &p, int64_t element_size) {
  Schedule s{};
  s.backward = is_backward(p);
  const int64_t time = p.time.extent, inner = p.inner.extent;
  const bool by_time = time_nearest(p), against = against_time(p);
  s.rows = by_time || inner * element_size < kLineBytes;
  const int lead = leading_role(p);
  const int64_t step = p.time.stride[lead], size = dtype_size(p.dtype[lead]);
  s.down = s.rows && (step == size ? against : step == -size && !against);
  s.reduce = reduction(p);

  const int64_t most = by_time ? kRowSteps / std::max<int64_t>(1, time) : kStateBytes / element_size;
  s.lanes = std::max<int64_t>(1, std::min(inner, most));
  s.chunks = ceil_div(inner, s.lanes);
  s.together = by_time && time <= kShortRow && s.lanes >= kManyRows;
  int64_t outer = 1;
  for (int d = 0; d < p.outer_rank; ++d) outer *= p.outer[d].extent;
  s.groups = outer * s.chunks;

  s.families = s.groups;
  s.family_groups = 1;
  if (s.reduce == Reduce::Lanes) {
    s.families = summed(p, p.inner) ? 1 : s.chunks;
    for (int d = 0; d < p.outer_rank; ++d)
      if (!summed(p, p.outer[d])) s.families *= p.outer[d].extent;
    s.family_groups = s.families ? s.groups / s.families : 0;
  }

  int64_t group_bytes = s.lanes * element_size;
  bool split = s.groups < kEnoughGroups && time > 1 && time * s.groups >= kWorthSplitting / group_bytes;
  s.segment = time;
  if (split || s.reduce == Reduce::Lanes)
    s.segment = std::min(time, std::max<int64_t>(16, kSegmentBytes / group_bytes));
  s.segment = std::max<int64_t>(1, s.segment);
  s.segments = ceil_div(time, s.segment);
  return s;
}

Place place_of(const scanlib_problem &p, const Schedule &s, int64_t family, int64_t member) {
  Place place;
  bool lanes = s.reduce == Reduce::Lanes;
  auto take = [](int64_t &number, int64_t extent) {
    int64_t index = number % extent;
    number /= extent;
    return index;
  };
  place.chunk = take(lanes && summed(p, p.inner) ? member : family, s.chunks);
  for (int d = p.outer_rank - 1; d >= 0; --d)
    place.outer[d] = take(lanes && summed(p, p.outer[d]) ? member : family, p.outer[d].extent);
  return place;
}

int64_t reduced_sums(const Schedule &s) {
  return s.reduce == Reduce::None ? 0 : s.reduce == Reduce::Time ? s.lanes : s.lanes * s.segment;
}

int64_t kept_index(const scanlib_problem &p, const Schedule &s, const Place &place) {
  int64_t index = 0;
  for (int d = 0; d < p.outer_rank; ++d)
    if (!summed(p, p.outer[d])) index = index * p.outer[d].extent + place.outer[d];
  return summed(p, p.inner) ? index : index * p.inner.extent + place.chunk * s.lanes;
}

int64_t kept_count(const scanlib_problem &p) {
  int64_t count = summed(p, p.inner) ? 1 : p.inner.extent;
  for (int d = 0; d < p.outer_rank; ++d)
    if (!summed(p, p.outer[d])) count *= p.outer[d].extent;
  return count;
}

}  // namespace scanlib
