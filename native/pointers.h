// What a caller passes for each operand of a prepared problem, checked once for every device.
#pragma once
#include "scanlib.h"

namespace scanlib {

// Copies a call's pointers, following holder_offset, and checks that one is there wherever an operand has elements:
// SCANLIB_OK or SCANLIB_E_ARGUMENT. `of` has SCANLIB_ROLES entries; those of absent operands become null.
int resolve_pointers(const scanlib_problem &problem, const void *const *pointers, void **of);

// Whether all of them are multiples of their elements' sizes.
bool pointers_aligned(const scanlib_problem &problem, void *const *of);

}  // namespace scanlib
