// Compiled once for each instruction set, as native/kernels.cpp is.
#include "loops.h"
#include "operators.h"

#define SCANLIB_TEXT2(name) #name
#define SCANLIB_TEXT(name) SCANLIB_TEXT2(name)

namespace scanlib_tests {

using scanlib::Complex, scanlib::loops, scanlib::MaxPlus, scanlib::Spiral;

const OperatorLoops SCANLIB_ISA = {SCANLIB_TEXT(SCANLIB_ISA), loops<MaxPlus, float>(), loops<MaxPlus, double>(),
                                   loops<Spiral, Complex<float>>(), loops<Spiral, Complex<double>>()};

}  // namespace scanlib_tests
