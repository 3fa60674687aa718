// What the parts of libscanlib share about a scanlib_problem.
#pragma once
#include "scanlib.h"

namespace scanlib {

// Bytes of one element; 0 for an unknown dtype.
int64_t dtype_size(int32_t dtype);

// Whether a role is a state (h0, the final one, or a gradient of either): those have no time axis.
bool is_state(int role);

// The dtype a problem is computed in: complex or double where any operand is, float otherwise.
int32_t compute_dtype(const scanlib_problem &problem);

// How many sequences there are.
int64_t lane_count(const scanlib_problem &problem);

}  // namespace scanlib
