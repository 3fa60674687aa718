/* A CUDA driver that launches nothing: it writes down what it is asked for and refuses what it is told to refuse.
 *
 * It has no function but those libscanlib looks for, so a call that waits or allocates cannot be made at all. A stream's
 * handle is its context's number times 256 plus its own; context N is of device N - 1. tests/test_cuda_launch.py talks to it.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>

#define API __attribute__((visibility("default")))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char record[1 << 20];
static size_t used;
static char refused[64];
static int refusal, attribute_major = 9, attribute_minor = 0, multiprocessors = 132, libraries;
static _Thread_local uintptr_t stack[16];
static _Thread_local int depth, mode; /* mode 0: captures are global, as every thread starts */

/* Writes a line down; returns what the function is to return. */
static int note(const char *name, const char *format, ...) {
  char line[512];
  int length = snprintf(line, sizeof line, "%s", name);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
  va_end(arguments);
  pthread_mutex_lock(&lock);
  int result = strcmp(name, refused) ? 0 : refusal;
  length = snprintf(record + used, sizeof record - used, "%s\n", line);
  if (used + (size_t)length < sizeof record) used += (size_t)length;
  pthread_mutex_unlock(&lock);
  return result;
}

/* ---- for the test */

API void fake_reset(void) {
  used = 0;
  record[0] = 0;
  refused[0] = 0;
  depth = mode = 0;
  attribute_major = 9, attribute_minor = 0, multiprocessors = 132;
}
API const char *fake_record(void) { return record; }
API void fake_forget(void) { used = 0, record[0] = 0; }
API void fake_refuse(const char *name, int code) {
  snprintf(refused, sizeof refused, "%s", name);
  refusal = code;
}
API void fake_current(uintptr_t context) { depth = context ? 1 : 0, stack[0] = context; }
API uintptr_t fake_current_now(void) { return depth ? stack[depth - 1] : 0; }
API int fake_depth(void) { return depth; }
API int fake_mode(void) { return mode; }
API void fake_architecture(int major, int minor) { attribute_major = major, attribute_minor = minor; }
API void fake_multiprocessors(int count) { multiprocessors = count; }

/* ---- the driver */

API int cuInit(unsigned flags) { return note("cuInit", " %u", flags); }
API int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
API int cuGetErrorName(int error, const char **text) {
  return *text = error == 3 ? "FAKE_NOT_INITIALIZED" : "FAKE_ERROR", 0;
}
API int cuGetErrorString(int error, const char **text) { return *text = error ? "as the test asked" : "none", 0; }
API int cuStreamGetCtx(uintptr_t stream, uintptr_t *context) {
  if (note("cuStreamGetCtx", " %lu", (unsigned long)stream)) return refusal;
  if (stream < 256 && !depth) return 201;
  *context = stream < 256 ? stack[depth - 1] : stream / 256;
  return 0;
}
API int cuCtxGetCurrent(uintptr_t *context) {
  *context = depth ? stack[depth - 1] : 0;
  return note("cuCtxGetCurrent", "");
}
API int cuCtxPushCurrent_v2(uintptr_t context) {
  if (note("cuCtxPushCurrent_v2", " %lu", (unsigned long)context)) return refusal;
  stack[depth++] = context;
  return 0;
}
API int cuCtxPopCurrent_v2(uintptr_t *context) {
  *context = stack[--depth];
  return note("cuCtxPopCurrent_v2", "");
}
API int cuCtxGetDevice(int *device) {
  if (!depth) return 201;
  *device = (int)stack[depth - 1] - 1;
  return note("cuCtxGetDevice", "");
}
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75   ? attribute_major
           : attribute == 76 ? attribute_minor
           : attribute == 16 ? multiprocessors
                             : -1;
  return note("cuDeviceGetAttribute", "");
}
API int cuDevicePrimaryCtxRetain(uintptr_t *context, int device) {
  *context = (uintptr_t)device + 1;
  return note("cuDevicePrimaryCtxRetain", " %d", device);
}
API int cuPointerGetAttribute(int *value, int attribute, unsigned long long address) {
  *value = (int)(address >> 32); /* the test's addresses have their device there */
  return note("cuPointerGetAttribute", " %d %llu", attribute, address);
}
API int cuThreadExchangeStreamCaptureMode(int *exchanged) {
  int before = mode;
  mode = *exchanged;
  *exchanged = before;
  return note("cuThreadExchangeStreamCaptureMode", " %d", mode);
}
API int cuLibraryLoadData(uintptr_t *library, const void *image, int *jit, void **values, unsigned count, int *options,
                          void **option_values, unsigned option_count) {
  (void)jit, (void)values, (void)count, (void)options, (void)option_values, (void)option_count;
  pthread_mutex_lock(&lock);
  *library = (uintptr_t)++libraries;
  pthread_mutex_unlock(&lock);
  return note("cuLibraryLoadData", " %s mode %d", (const char *)image, mode);
}
API int cuLibraryUnload(uintptr_t library) { return note("cuLibraryUnload", " %lu", (unsigned long)library); }
API int cuLibraryGetKernel(uintptr_t *kernel, uintptr_t library, const char *name) {
  *kernel = 1000 + library;
  return note("cuLibraryGetKernel", " %s", name);
}
API int cuKernelGetFunction(uintptr_t *function, uintptr_t kernel) {
  *function = kernel;
  return note("cuKernelGetFunction", " %lu context %lu mode %d", (unsigned long)kernel,
              (unsigned long)fake_current_now(), mode);
}
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, uintptr_t function, int threads, size_t shared) {
  *blocks = 3;
  return note("cuOccupancyMaxActiveBlocksPerMultiprocessor", " %lu threads %d shared %lu", (unsigned long)function,
              threads, (unsigned long)shared);
}
API int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t count, uintptr_t stream) {
  return note("cuMemsetD8Async", " %llu %d %lu stream %lu", address, value, (unsigned long)count,
              (unsigned long)stream);
}
API int cuLaunchKernel(uintptr_t kernel, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, uintptr_t stream, void **parameters, void **extra) {
  (void)bx;
  return note("cuLaunchKernel", " %lu x %u y %u z %u by %u bz %u shared %u stream %lu context %lu mode %d %s %s",
              (unsigned long)kernel, x, y, z, by, bz, shared, (unsigned long)stream, (unsigned long)fake_current_now(),
              mode, parameters && parameters[0] ? "parameters" : "nothing", extra ? "extra" : "alone");
}
