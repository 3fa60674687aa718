// XLA FFI handler: what JAX's compiled programs call on a CPU.
//
// This file and xla_cuda.cpp need jaxlib's headers and are left out of libscanlib where they are missing: the symbols'
// presence is what Python looks for.
#include "xla_call.h"

namespace {

using namespace scanlib;

ffi::Error run(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, Numbers roles,
               Numbers views, Numbers tuning) {
  Call call(args, rets, {axis, reverse, roles, views, tuning}, 0);
  if (call.error().success()) call.check(scanlib_cpu_run(&call.problem(), call.pointers()));
  return call.error();
}

}  // namespace

// The attribute keeps the handlers visible under -fvisibility=hidden.
extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cpu(XLA_FFI_CallFrame *frame) {
  static auto *handler = with_attributes(ffi::Ffi::Bind()).To(run).release();
  return handler->Call(frame);
}

// The XLA FFI version of the headers this was compiled with, major * 1000 + minor, for messages.
extern "C" SCANLIB_API int scanlib_xla_ffi_version(void) { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
