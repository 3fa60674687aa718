// What a caller passes for each operand of a prepared problem, checked once for every device.
#pragma once
#include "scanlib.h"

namespace scanlib {

// What an address has to be a multiple of: a number's size, or for kernels that access complex elements at once, theirs.
enum class Alignment { Number, Element };

// Follows holder_offset, then checks that a pointer is there exactly where its operand has elements and that it is aligned:
// SCANLIB_OK, SCANLIB_E_ARGUMENT or SCANLIB_E_ALIGNMENT. `of` has SCANLIB_ROLES entries.
int resolve_pointers(const scanlib_problem &problem, Alignment alignment, void **of);

// The pointers of a call, in the order of the C interface.
void forward_pointers(const void *a, const void *x, const void *h0, void *h, void *final_state, void **of);
void backward_pointers(const void *a, const void *h, const void *h0, const void *grad_h, const void *grad_final,
                       void *grad_a, void *grad_x, void *grad_h0, void **of);

}  // namespace scanlib
