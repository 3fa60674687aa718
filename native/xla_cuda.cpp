// XLA FFI handlers: what JAX's compiled programs call on a GPU.
//
// Their last result is scratch memory, as many bytes as scanlib_cuda_scratch_bytes() says, which the caller drops. They put
// work on XLA's stream, allocate nothing and wait for nothing, so XLA may record them in a command buffer.
#include "xla_call.h"

namespace {

using namespace scanlib;

// The scratch buffer for `problem`; false, with an error in `call`, where the program brought one that is too small.
bool scratch_of(Call &call, const scanlib_problem &problem, ffi::RemainingRets rets, void **scratch) {
  ffi::AnyBuffer buffer = **rets.get<ffi::AnyBuffer>(rets.size() - 1);
  int64_t needed = 0;
  call.check(scanlib_cuda_scratch_bytes(&problem, &needed));
  if (call.error().failure()) return false;
  if (int64_t(buffer.size_bytes()) < needed) {
    call.fail("scanlib: the program brings " + std::to_string(buffer.size_bytes()) + " bytes of scratch memory where " +
              std::to_string(needed) + " are needed; it was made for another libscanlib, export it again");
    return false;
  }
  *scratch = buffer.untyped_data();
  return true;
}

ffi::Error cuda_forward(void *stream, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse,
                        Views views) {
  return forward(args, rets, axis, reverse, views, 1, [=](Call &call, const scanlib_problem &problem) {
    void *scratch;
    if (scratch_of(call, problem, rets, &scratch))
      call.check(scanlib_cuda_forward(&problem, stream, scratch, call[SCANLIB_A], call[SCANLIB_X], call[SCANLIB_H0],
                                      call[SCANLIB_H], call[SCANLIB_FINAL]));
  });
}

ffi::Error cuda_backward(void *stream, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse,
                         Views views) {
  return backward(args, rets, axis, reverse, views, 1, [=](Call &call, const scanlib_problem &problem) {
    void *scratch;
    if (scratch_of(call, problem, rets, &scratch))
      call.check(scanlib_cuda_backward(&problem, stream, scratch, call[SCANLIB_A], call[SCANLIB_H], call[SCANLIB_H0],
                                       call[SCANLIB_GRAD_H], call[SCANLIB_GRAD_FINAL], call[SCANLIB_GRAD_A],
                                       call[SCANLIB_GRAD_X], call[SCANLIB_GRAD_H0]));
  });
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<void *>>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("axis")
      .Attr<bool>("reverse")
      .Attr<Views>("views");
}

}  // namespace

extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cuda_forward(XLA_FFI_CallFrame *frame) {
  static auto *handler = binding().To(cuda_forward, {ffi::Traits::kCmdBufferCompatible}).release();
  return handler->Call(frame);
}

extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cuda_backward(XLA_FFI_CallFrame *frame) {
  static auto *handler = binding().To(cuda_backward, {ffi::Traits::kCmdBufferCompatible}).release();
  return handler->Call(frame);
}
