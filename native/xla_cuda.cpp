// XLA FFI handler: what JAX's compiled programs call on a GPU.
//
// Its last result is scratch memory, as many bytes as scanlib_cuda_scratch_bytes() says, which the caller drops. It puts
// work on XLA's stream, allocates nothing and waits for nothing, so XLA may record them in a command buffer.
#include "xla_call.h"

namespace {

using namespace scanlib;

ffi::Error run(void *stream, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse,
               Numbers roles, Numbers views, Numbers tuning) {
  Call call(args, rets, {axis, reverse, roles, views, tuning}, 1);
  if (call.error().failure()) return call.error();
  int64_t needed = 0;
  call.check(scanlib_cuda_scratch_bytes(&call.problem(), &needed));
  if (call.error().failure()) return call.error();
  ffi::AnyBuffer scratch = **rets.get<ffi::AnyBuffer>(rets.size() - 1);
  if (int64_t(scratch.size_bytes()) < needed) {
    call.fail("scanlib: the program brings " + std::to_string(scratch.size_bytes()) +
              " bytes of scratch memory where " + std::to_string(needed) +
              " are needed; it was made for another libscanlib, export it again");
    return call.error();
  }
  call.check(scanlib_cuda_run(&call.problem(), stream, scratch.untyped_data(), call.pointers()));
  return call.error();
}

}  // namespace

extern "C" SCANLIB_API XLA_FFI_Error *scanlib_xla_cuda(XLA_FFI_CallFrame *frame) {
  static auto *handler = with_attributes(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void *>>())
                             .To(run, {ffi::Traits::kCmdBufferCompatible})
                             .release();
  return handler->Call(frame);
}
