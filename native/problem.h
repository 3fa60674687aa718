// What the parts of libscanlib share about a scanlib_problem.
#pragma once
#include "scanlib.h"

namespace scanlib {

// Bytes of one element; 0 for an unknown dtype.
int64_t dtype_size(int32_t dtype);

}  // namespace scanlib
