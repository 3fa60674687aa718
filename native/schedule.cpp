#include "schedule.h"

#include <algorithm>
#include <cstdlib>

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

bool summed(const scanlib_problem &p, int64_t stride, int64_t extent) {
  return p.operand[SCANLIB_GRAD_A].dtype != SCANLIB_ABSENT && stride == 0 && extent > 1;
}
bool inner_summed(const scanlib_problem &p) { return summed(p, p.operand[SCANLIB_GRAD_A].inner, p.inner); }
bool outer_summed(const scanlib_problem &p, int d) { return summed(p, p.operand[SCANLIB_GRAD_A].outer[d], p.outer[d]); }

Reduce reduction(const scanlib_problem &p) {
  if (summed(p, p.operand[SCANLIB_GRAD_A].time, p.time)) return Reduce::Time;
  bool any = inner_summed(p);
  for (int d = 0; d < p.outer_rank; ++d) any = any || outer_summed(p, d);
  return any ? Reduce::Lanes : Reduce::None;
}

}  // namespace

Schedule make_schedule(const scanlib_problem &p, int64_t element_size) {
  Schedule s{};
  s.backward = p.operand[SCANLIB_GRAD_H].dtype != SCANLIB_ABSENT;
  const scanlib_layout &lead = p.operand[s.backward ? SCANLIB_GRAD_X : SCANLIB_H];
  const bool time_nearest = p.inner == 1 || std::llabs(lead.time) < std::llabs(lead.inner);
  s.rows = time_nearest || p.inner * element_size < kLineBytes;
  bool against = ((p.flags & SCANLIB_REVERSE) != 0) != s.backward;  // the order of the steps, against that of the axis
  s.down = s.rows && (lead.time == 1 ? against : lead.time == -1 && !against);
  s.reduce = reduction(p);

  const int64_t most = time_nearest ? kRowSteps / std::max<int64_t>(1, p.time) : kStateBytes / element_size;
  s.lanes = std::max<int64_t>(1, std::min(p.inner, most));
  s.chunks = ceil_div(p.inner, s.lanes);
  s.together = time_nearest && p.time <= kShortRow && s.lanes >= kManyRows;
  int64_t outer = 1;
  for (int d = 0; d < p.outer_rank; ++d) outer *= p.outer[d];
  s.groups = outer * s.chunks;

  s.families = s.groups;
  s.family_groups = 1;
  if (s.reduce == Reduce::Lanes) {
    s.families = inner_summed(p) ? 1 : s.chunks;
    for (int d = 0; d < p.outer_rank; ++d)
      if (!outer_summed(p, d)) s.families *= p.outer[d];
    s.family_groups = s.families ? s.groups / s.families : 0;
  }

  int64_t group_bytes = s.lanes * element_size;
  bool split = s.groups < kEnoughGroups && p.time > 1 && p.time * s.groups >= kWorthSplitting / group_bytes;
  s.segment = p.time;
  if (split || s.reduce == Reduce::Lanes)
    s.segment = std::min(p.time, std::max<int64_t>(16, kSegmentBytes / group_bytes));
  s.segment = std::max<int64_t>(1, s.segment);
  s.segments = ceil_div(p.time, s.segment);
  return s;
}

Place place_of(const scanlib_problem &p, const Schedule &s, int64_t family, int64_t member) {
  Place place{};
  bool lanes = s.reduce == Reduce::Lanes;
  auto take = [](int64_t &number, int64_t extent) {
    int64_t index = number % extent;
    number /= extent;
    return index;
  };
  place.chunk = take(lanes && inner_summed(p) ? member : family, s.chunks);
  for (int d = p.outer_rank - 1; d >= 0; --d)
    place.outer[d] = take(lanes && outer_summed(p, d) ? member : family, p.outer[d]);
  return place;
}

int64_t kept_index(const scanlib_problem &p, const Schedule &s, const Place &place) {
  int64_t index = 0;
  for (int d = 0; d < p.outer_rank; ++d)
    if (!outer_summed(p, d)) index = index * p.outer[d] + place.outer[d];
  return inner_summed(p) ? index : index * p.inner + place.chunk * s.lanes;
}

int64_t kept_count(const scanlib_problem &p) {
  int64_t count = inner_summed(p) ? 1 : p.inner;
  for (int d = 0; d < p.outer_rank; ++d)
    if (!outer_summed(p, d)) count *= p.outer[d];
  return count;
}

}  // namespace scanlib
