// XLA FFI handlers: what JAX's compiled programs call on a CPU.
//
// This file and xla_cuda.cpp need jaxlib's headers and are left out of libscanlib where they are missing: the symbols'
// presence is what Python looks for.
#include "xla_call.h"

namespace {

using namespace scanlib;

ffi::Error cpu_forward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, Views views) {
  return forward(args, rets, axis, reverse, views, 0, [](Call &call, const scanlib_problem &problem) {
    call.check(scanlib_cpu_forward(&problem, call[SCANLIB_A], call[SCANLIB_X], call[SCANLIB_H0], call[SCANLIB_H],
                                   call[SCANLIB_FINAL]));
  });
}

ffi::Error cpu_backward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, Views views) {
  return backward(args, rets, axis, reverse, views, 0, [](Call &call, const scanlib_problem &problem) {
    call.check(scanlib_cpu_backward(&problem, call[SCANLIB_A], call[SCANLIB_H], call[SCANLIB_H0], call[SCANLIB_GRAD_H],
                                    call[SCANLIB_GRAD_FINAL], call[SCANLIB_GRAD_A], call[SCANLIB_GRAD_X],
                                    call[SCANLIB_GRAD_H0]));
  });
}

auto binding() {
  return ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<int64_t>("axis").Attr<bool>("reverse").Attr<Views>(
      "views");
}

}  // namespace

// The attribute keeps the handlers visible under -fvisibility=hidden.
extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cpu_forward(XLA_FFI_CallFrame *frame) {
  static auto *handler = binding().To(cpu_forward).release();
  return handler->Call(frame);
}

extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cpu_backward(XLA_FFI_CallFrame *frame) {
  static auto *handler = binding().To(cpu_backward).release();
  return handler->Call(frame);
}

// The XLA FFI version of the headers this was compiled with, major * 1000 + minor, for messages.
extern "C" SCANLIB_API int scanlib_xla_ffi_version(void) { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
