// How a problem is cut for a GPU: which kernel of cuda/ runs it, specialised how, on how many blocks, with how much scratch
// memory. A function of the problem alone, so that how a result is put together does not depend on the device either. The same
// plan serves CuPy, PyTorch, JAX and the emulated kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "scanlib.h"

namespace scanlib {

constexpr size_t kCudaScratchAlignment = 16;

// One kernel launch. `options` are the preprocessor definitions, separated by single spaces, that turn the source in cuda/
// into one program with the entry `scanlib_kernel`: they name the specialisation completely.
struct CudaLaunch {
  char options[480];
  uint32_t blocks, threads;
  bool persistent;        // as many blocks as the device holds at once are enough
  uint32_t least_blocks;  // that it has to hold at once
};

// The pointers of a call by scanlib_role; null where absent.
struct CudaPointers {
  void *of[SCANLIB_ROLES];
};

// What every kernel takes as its only argument, by value; its fields are the business of cuda/ and cuda_plan.cpp.
struct alignas(16) CudaParams {
  static constexpr size_t kBytes = 2048;
  unsigned char bytes[kBytes];
};

// An outer axis beyond those that a kernel counts along: its launches are repeated for each index.
struct CudaLoop {
  scanlib_axis axis;
  bool summed;   // grad_a has one sum for all of it
  int64_t part;  // its stride among the partial sums of grad_a
};

// The first launch walks, unless only sums over nothing are to be written; the last adds up partial sums, where there are any.
struct CudaPlan {
  static constexpr int kMostLaunches = 2;
  int launches;
  CudaLaunch launch[kMostLaunches];
  bool walks, sums;
  std::vector<CudaLoop> loops;  // those not summed first; most problems have none
  int64_t scratch_bytes;        // of the caller's memory, aligned to kCudaScratchAlignment
  int64_t zeroed_bytes;         // of these, from the start, set to zero on the stream before a walk
  char summary[320];            // one line for scanlib.explain: the kernel, how it walks the data, how the work is cut
  CudaParams params;            // with offsets in place of addresses
  bool down;
};

// The numbers of scanlib_tuning by which work is cut where a problem brings no others, for a device the size of an H200 (132
// multiprocessors). Tests bring others, so that small problems are cut like large ones.
struct CudaTuning {
  // Of a block that walks rows or columns, or that looks back: 32 times a power of two.
  int64_t row_threads = 128, column_threads = 256, look_back_threads = 128;
  int64_t run_bytes = 64, backward_run_bytes = 32;  // of one operand that a thread has to itself; 32 elements at most
  // Tiles, and bundles, that look-back joins at a time where there are no carriers; 0: as many as the problem wants.
  int64_t bundle = 0;
  // Threads that a multiprocessor is to hold, which bounds their registers; 0: as the kernel wants.
  int64_t resident = 0;
  int64_t enough_groups = 512;  // with so many groups of sequences time is not split
  int64_t many_lanes = 65536;   // neighbouring sequences of which each gets a thread

  CudaTuning() = default;
  explicit CudaTuning(const scanlib_tuning &given);
};

// SCANLIB_OK, SCANLIB_E_ARGUMENT (also where its tuning is out of bounds), SCANLIB_E_ALIGNMENT or SCANLIB_E_OVERFLOW. A problem
// without elements to write has no launches.
int plan_cuda(const scanlib_problem &problem, CudaPlan *plan);

// Its scratch memory alone, which is worked out in less time.
int cuda_scratch_bytes(const scanlib_problem &problem, int64_t *bytes);

// The plan's parameters for a launch. The pointers are those of the call, moved to an index of the plan's loops; `part` is how
// far that index is among the partial sums.
void fill_cuda_params(const CudaPlan &plan, const CudaPointers &pointers, int64_t part, void *scratch,
                      CudaParams *params);

}  // namespace scanlib
