// The one kernel: which of its ways of working it has is decided when it is compiled, by the definitions that
// native/cuda_plan.cpp writes. See docs/kernels.md.
//
//   SCANLIB_KERNEL    0 walk (walk.cuh), 1 look-back (lookback.cuh), 2 the sums of grad_a (reduce.cuh)
//   SCANLIB_BACKWARD  0 forward, 1 backward
//   SCANLIB_VALUE     what is computed in: a scanlib_dtype of native/scanlib.h, 3 to 6
//   SCANLIB_A, _X, _H, _GRAD_A, _GRAD_X   the operands' dtypes; X is grad_h in backward. States have theirs at run time
//   SCANLIB_LAYOUT    0 columns, 1 rows (tile.cuh)
//   SCANLIB_DOWN      1: rows whose later steps lie at lower addresses
//   SCANLIB_THREADS, SCANLIB_WIDTH, SCANLIB_RUN   the tile: threads of a block, lanes, steps a thread
//   SCANLIB_BUNDLE    tiles of a bundle, bundles of a stack (joints.cuh)
//   SCANLIB_CARRIERS  tiles that a carrier's thread has at a time (carriers.cuh); 0 where there are none
//   SCANLIB_SUM       what is summed of grad_a inside a tile: 0 nothing, 1 steps, 2 lanes, 3 both
//   SCANLIB_RESIDENT  threads a multiprocessor is to hold at least, which bounds the registers of each
//   SCANLIB_OPERATOR, SCANLIB_OPERATOR_FILE   the operator and its header; the linear recurrence's unless given
//   SCANLIB_SOURCE    where coefficients and inputs come from: a scanlib_source, operands.cuh unless given, or gates.cuh
//   SCANLIB_CANDIDATE, SCANLIB_READING, SCANLIB_INPUT   of gates: numbers of native/scanlib.h; whether they have one for the input
//   SCANLIB_SEGMENTS  where sequences start inside the time axis: 0 nowhere, unless given, 1 by RESET, 2 by OFFSETS (segments.cuh)
#if !defined(SCANLIB_SEGMENTS)
#define SCANLIB_SEGMENTS 0
#endif
#if !defined(SCANLIB_SOURCE)
#define SCANLIB_SOURCE 0
#endif
#if !defined(SCANLIB_OPERATOR)
#define SCANLIB_OPERATOR Linear
#define SCANLIB_OPERATOR_FILE "linear.h"
#endif
#include SCANLIB_OPERATOR_FILE

#if SCANLIB_KERNEL == 0
#include "walk.cuh"
#elif SCANLIB_KERNEL == 1
#include "lookback.cuh"
#else
#include "reduce.cuh"
#endif

// Where a multiprocessor has 64 or 100 KiB of shared memory, that has no room for more than this.
#if defined(__CUDA_ARCH__) && \
    (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kMostResident = 512;
#else
constexpr int kMostResident = 2048;
#endif
constexpr int kResident = SCANLIB_RESIDENT < kMostResident ? SCANLIB_RESIDENT : kMostResident;

extern "C" __global__ void __launch_bounds__(SCANLIB_THREADS, kResident / SCANLIB_THREADS)
    scanlib_kernel(scanlib::Params const __grid_constant__ params) {
#if SCANLIB_KERNEL == 0
  scanlib::walk(params.scan);
#elif SCANLIB_KERNEL == 1
  scanlib::walk_tiles(params.scan);
#else
  scanlib::add_up(params.reduce);
#endif
}
