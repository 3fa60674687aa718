// The CUDA driver, found at run time: libscanlib links nothing of CUDA, and loads where there is none.
#pragma once
#include <cstddef>

namespace scanlib {

using CudaResult = int;  // CUresult
using CudaContext = struct CudaContextTag *;
using CudaStream = void *;
using CudaLibrary = struct CudaLibraryTag *;
using CudaKernel = struct CudaKernelTag *;  // CUkernel, which cuLaunchKernel takes as a CUfunction
using CudaFunction = void *;
using CudaAddress = unsigned long long;  // CUdeviceptr

// Values of the driver's interface that are used here.
enum : int {
  kCudaErrorNotInitialized = 3,
  kCudaErrorNoDevice = 100,
  kCudaErrorInvalidContext = 201,
  kCudaAttributeMultiprocessors = 16,
  kCudaAttributeMajor = 75,
  kCudaAttributeMinor = 76,
  kCudaPointerDevice = 9,
  kCudaCaptureRelaxed = 2,
};

// The driver's functions by name; those that were renamed with the suffix they are exported under.
#define SCANLIB_CUDA_FUNCTIONS(apply)                                                                                 \
  apply(cuInit, (unsigned flags)) apply(cuDriverGetVersion, (int *version)) apply(                                    \
      cuGetErrorName, (CudaResult error, const char **text))                                                          \
      apply(cuGetErrorString, (CudaResult error, const char **text)) apply(                                           \
          cuStreamGetCtx, (CudaStream stream, CudaContext * context)) apply(cuCtxGetCurrent, (CudaContext * context)) \
          apply(cuCtxPushCurrent_v2, (CudaContext context)) apply(cuCtxPopCurrent_v2, (CudaContext * context)) apply( \
              cuCtxGetDevice, (int *device)) apply(cuDeviceGetAttribute, (int *value, int attribute, int device))     \
              apply(cuDevicePrimaryCtxRetain, (CudaContext * context, int device))                                    \
                  apply(cuPointerGetAttribute, (void *value, int attribute, CudaAddress address))                     \
                      apply(cuThreadExchangeStreamCaptureMode, (int *mode)) apply(                                    \
                          cuLibraryLoadData, (CudaLibrary * library, const void *image, int *jit_options,             \
                                              void **jit_values, unsigned jit_count, int *options, void **values,     \
                                              unsigned count)) apply(cuLibraryUnload, (CudaLibrary library))          \
                          apply(cuLibraryGetKernel, (CudaKernel * kernel, CudaLibrary library, const char *name))     \
                              apply(cuKernelGetFunction, (CudaFunction * function, CudaKernel kernel))                \
                                  apply(cuOccupancyMaxActiveBlocksPerMultiprocessor,                                  \
                                        (int *blocks, CudaFunction function, int threads, size_t shared_bytes))       \
                                      apply(cuMemsetD8Async, (CudaAddress address, unsigned char value, size_t count, \
                                                              CudaStream stream))                                     \
                                          apply(cuLaunchKernel, (CudaKernel kernel, unsigned grid_x, unsigned grid_y, \
                                                                 unsigned grid_z, unsigned block_x, unsigned block_y, \
                                                                 unsigned block_z, unsigned shared_bytes,             \
                                                                 CudaStream stream, void **params, void **extra))

struct CudaDriver {
#define SCANLIB_DECLARE(name, arguments) CudaResult(*name) arguments;
  SCANLIB_CUDA_FUNCTIONS(SCANLIB_DECLARE)
#undef SCANLIB_DECLARE
};

// The loaded and initialised driver; null where there is none or no GPU, and then `why` says so and what would help.
const CudaDriver *cuda_driver(char *why, size_t size);

// Another library to load in place of libcuda, from the next call on; null for libcuda. For tests: no call may be running.
int use_cuda_driver(const char *path);

}  // namespace scanlib
