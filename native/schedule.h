// How the work of a problem on the CPU is cut: a function of the problem alone, never of the number of threads, so that the
// bits of a result are not either.
#pragma once
#include "problem.h"

namespace scanlib {

// How grad_a is summed where `a` was broadcast.
enum class Reduce {
  None,  // grad_a has every element of its own
  Time,  // ... is summed along time, perhaps along others: each item keeps one sum a lane, added up at the end
  Lanes,  // ... is summed along lanes but not time: an item walks all groups that share its elements, one after the other
};

// The recurrences are split into groups of `lanes` that are neighbours along `inner`, numbered with the outer axes
// outside; time is split into segments. An item is one segment of one group (Reduce::Lanes: of the groups in one family).
// Segments of a group depend on each other in order: each turns the carry it receives into the carry it passes on.
struct Schedule {
  bool backward;
  bool rows;      // each recurrence is walked on its own along time; else all lanes of a group step by step
  bool down;      // rows whose steps run against the addresses
  bool together;  // rows so short and many that a vector takes one a lane, where the operands lie as it wants them
  Reduce reduce;
  int64_t lanes;   // the most lanes in a group; the last group along inner may have fewer
  int64_t chunks;  // groups along inner
  int64_t groups;
  int64_t families;  // items a segment; == groups unless Reduce::Lanes
  int64_t family_groups;
  int64_t segment;  // steps
  int64_t segments;

  int64_t items() const { return families * segments; }
};

Schedule make_schedule(const scanlib_problem &problem, int64_t element_size);

// The position of a group: its index along the outer axes, as many as the problem has, and its first lane.
struct Place {
  int64_t outer[SCANLIB_MAX_OUTER];
  int64_t chunk;
};

// Group number `member` of family `family`.
Place place_of(const scanlib_problem &problem, const Schedule &schedule, int64_t family, int64_t member);

// How many sums of grad_a a thread keeps.
int64_t reduced_sums(const Schedule &schedule);

// Where grad_a's sum of a place goes in a dense array of grad_a's own elements without time, and that array's size.
int64_t kept_index(const scanlib_problem &problem, const Schedule &schedule, const Place &place);
int64_t kept_count(const scanlib_problem &problem);

}  // namespace scanlib
