// How a problem is cut for a GPU: which kernel of cuda/ runs it, specialised how, on how many blocks, with how much scratch
// memory. A function of the problem alone but for the number of blocks, so that the bits of a result do not depend on the
// device either. The same plan serves CuPy, PyTorch, JAX and the emulated kernels.
#pragma once
#include <cstddef>
#include <cstdint>

#include "scanlib.h"

namespace scanlib {

struct CudaDevice {
  int architecture;     // 10 * major + minor of the compute capability
  int multiprocessors;  // bounds the number of blocks
};

// One kernel launch. `options` are the preprocessor definitions, separated by single spaces, that turn the source in cuda/
// into one program with the entry `scanlib_kernel`: they name the specialisation completely.
struct CudaLaunch {
  char options[384];
  uint32_t blocks, threads;
};

struct CudaPlan {
  static constexpr int kMostLaunches = 2;
  int launches;
  CudaLaunch launch[kMostLaunches];
  int64_t scratch_bytes;  // of the caller's memory, aligned to 256 bytes; does not depend on the device
  int64_t zeroed_bytes;   // of these, from the start, set to zero on the stream before the first launch
  char summary[256];      // one line for scanlib.explain: the kernel, how it walks the data, how the work is cut
};

// The pointers of a call by scanlib_role; null where absent.
struct CudaPointers {
  void *of[SCANLIB_ROLES];
};

// What every kernel takes as its only argument, by value; its fields are the business of cuda/ and cuda_plan.cpp.
struct alignas(16) CudaParams {
  static constexpr size_t kBytes = 1536;
  unsigned char bytes[kBytes];
};

// The numbers by which the work is cut, for a device the size of an H200 (132 multiprocessors). Tests set others with
// scanlib_cuda_tune(), so that small problems are cut like large ones.
struct CudaTuning {
  int row_threads = 128, column_threads = 256;  // of a block: 32 times a power of two
  // Bytes of one operand that a thread has in registers: forward and backward, and where it loads a tile ahead.
  int run_bytes = 64, backward_run_bytes = 32, prefetch_run_bytes = 32;
  int bundle = 32;               // tiles, and bundles, that look-back joins at a time
  int64_t enough_groups = 1024;  // with so many groups of sequences time is not split
  int64_t many_lanes = 65536;    // neighbouring sequences of which each gets a thread
};

// SCANLIB_OK, SCANLIB_E_ARGUMENT or SCANLIB_E_OVERFLOW. A problem without elements to write has no launches.
int plan_cuda(const scanlib_problem &problem, const CudaDevice &device, CudaPlan *plan);

void fill_cuda_params(const scanlib_problem &problem, const CudaPlan &plan, const CudaPointers &pointers, void *scratch,
                      CudaParams *params);

}  // namespace scanlib
