// What the parts of libscanlib share about a scanlib_problem.
#pragma once
#include "scanlib.h"

namespace scanlib {

// Bytes of one element; 0 for an unknown dtype.
int64_t dtype_size(int32_t dtype);

// What the table of roles says of one: whether it is a state, and how a pass uses it.
struct RoleTraits {
  const char *name;
  bool state;
  int plain[2], gated[2];  // in forward, in backward

  int use(bool of_gates, bool in_backward) const { return (of_gates ? gated : plain)[in_backward]; }
};
constexpr RoleTraits kRoleTraits[SCANLIB_ROLES] = {
#define SCANLIB_ROLE_TRAITS(NAME, name, state, forward, backward, gated_forward, gated_backward) \
  {#name, state, {forward, backward}, {gated_forward, gated_backward}},
    SCANLIB_ROLE_TABLE(SCANLIB_ROLE_TRAITS)
#undef SCANLIB_ROLE_TRAITS
};
inline bool is_state(int role) { return kRoleTraits[role].state; }

inline bool given(const scanlib_problem &problem, int role) { return problem.dtype[role] != SCANLIB_ABSENT; }
inline bool is_backward(const scanlib_problem &problem) { return given(problem, SCANLIB_GRAD_H); }

inline bool is_gated(const scanlib_problem &problem) { return problem.source == SCANLIB_COLUMNS; }

// The operand whose memory order the kernels follow: what they write most of.
inline scanlib_role leading_role(bool gated, bool backward) { return backward && !gated ? SCANLIB_GRAD_X : SCANLIB_H; }
inline scanlib_role leading_role(const scanlib_problem &problem) {
  return leading_role(is_gated(problem), is_backward(problem));
}

// Whether steps are walked against the order of the time axis.
inline bool against_time(const scanlib_problem &problem) {
  return ((problem.flags & SCANLIB_REVERSE) != 0) != is_backward(problem);
}

// Whether time is nearer in memory than the lanes.
bool time_nearest(const scanlib_problem &problem);

// As NumPy calls it; "" for none.
const char *dtype_name(int32_t dtype);

// The dtype a problem is computed in: complex or double where any operand is, float otherwise.
int32_t compute_dtype(const scanlib_problem &problem);

// How many sequences there are.
int64_t lane_count(const scanlib_problem &problem);

}  // namespace scanlib
