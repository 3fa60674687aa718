// Which instruction set's kernels this machine runs.
#pragma once
#include "kernels.h"

namespace scanlib {

const InstructionSet &instruction_set();

}  // namespace scanlib
