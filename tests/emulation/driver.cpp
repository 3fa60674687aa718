// The few functions of NVIDIA's driver that libscanlib calls: given this library in place of libcuda.so.1, and the path of a
// compiled kernel in place of a cubin, everything else runs as on a GPU, on the CPU's memory. One device, one context; whatever
// is put on a stream runs at once.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "params.h"

extern "C" {

const char *emulated_launch(void *kernel, const void *params, unsigned blocks, unsigned threads, unsigned carriers);

// Why the last call that failed did.
static char failure[256];

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuGetErrorName(int error, const char **text) {
  *text = error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
int cuGetErrorString(int, const char **text) { return *text = failure, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == 75 ? 9 : attribute == 16 ? 4 : 0;  // sm_90 with few multiprocessors
  return 0;
}
static int context;
int cuStreamGetCtx(void *, void **out) { return *out = &context, 0; }
int cuCtxGetCurrent(void **out) { return *out = &context, 0; }
int cuCtxPushCurrent_v2(void *) { return 0; }
int cuCtxPopCurrent_v2(void **out) { return *out = &context, 0; }
int cuCtxGetDevice(int *device) { return *device = 0; }
int cuDevicePrimaryCtxRetain(void **out, int) { return *out = &context, 0; }
int cuPointerGetAttribute(void *value, int, unsigned long long) { return *static_cast<int *>(value) = 0; }
int cuThreadExchangeStreamCaptureMode(int *) { return 0; }
int cuStreamIsCapturing(void *, int *capturing) { return *capturing = 0; }

// An image is the path of a shared library.
int cuLibraryLoadData(void **library, const void *image, int *, void **, unsigned, int *, void **, unsigned) {
  *library = dlopen(static_cast<const char *>(image), RTLD_NOW | RTLD_LOCAL);
  if (!*library) std::snprintf(failure, sizeof failure, "%s", dlerror());
  return *library ? 0 : 1;
}
int cuLibraryUnload(void *) { return 0; }
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  *kernel = dlsym(library, name);
  return *kernel ? 0 : 1;
}
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int, size_t) { return *blocks = 10, 0; }
int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t count, void *) {
  std::memset(reinterpret_cast<void *>(address), value, count);
  return 0;
}
int cuLaunchKernel(void *kernel, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned,
                   void *, void **params, void **) {
  const int carriers = static_cast<const scanlib::Params *>(params[0])->scan.carriers;
  const char *wrong = emulated_launch(kernel, params[0], blocks, threads, unsigned(carriers));
  if (*wrong) std::snprintf(failure, sizeof failure, "%s", wrong);
  return *wrong ? 719 : 0;
}
}
