/* Calls an XLA FFI handler the way XLA does, without XLA: so that the handlers for a GPU run where there is none.
 *
 * Everything is one array of float32 for each argument and result, except for the last result, which is scratch memory.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#define API __attribute__((visibility("default")))

struct XLA_FFI_Error {
  char message[4096];
};
static struct XLA_FFI_Error error;
static void *stream;

static XLA_FFI_Error *create(XLA_FFI_Error_Create_Args *args) {
  snprintf(error.message, sizeof error.message, "%s", args->message);
  return &error;
}
static void destroy(XLA_FFI_Error_Destroy_Args *args) { (void)args; }
static XLA_FFI_Error *get_stream(XLA_FFI_Stream_Get_Args *args) {
  args->stream = stream;
  return NULL;
}

static XLA_FFI_Api api = {.struct_size = XLA_FFI_Api_STRUCT_SIZE,
                          .api_version = {.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE,
                                          .major_version = XLA_FFI_API_MAJOR,
                                          .minor_version = XLA_FFI_API_MINOR},
                          .XLA_FFI_Error_Create = create,
                          .XLA_FFI_Error_Destroy = destroy,
                          .XLA_FFI_Stream_Get = get_stream};

static XLA_FFI_CallFrame frame_of(XLA_FFI_ExecutionStage stage) {
  XLA_FFI_CallFrame frame = {.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE, .api = &api, .stage = stage};
  frame.args.struct_size = XLA_FFI_Args_STRUCT_SIZE;
  frame.rets.struct_size = XLA_FFI_Rets_STRUCT_SIZE;
  frame.attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
  return frame;
}

/* What a handler says of itself; -1 where it says nothing. */
API int frame_traits(XLA_FFI_Handler *handler) {
  XLA_FFI_Metadata metadata = {.struct_size = XLA_FFI_Metadata_STRUCT_SIZE,
                               .api_version = {.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE}};
  XLA_FFI_Metadata_Extension extension = {
      .extension_base = {.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE, .type = XLA_FFI_Extension_Metadata},
      .metadata = &metadata};
  XLA_FFI_CallFrame frame = frame_of(XLA_FFI_ExecutionStage_EXECUTE);
  frame.extension_start = &extension.extension_base;
  return handler(&frame) ? -1 : (int)metadata.traits;
}

/* Runs a handler on `count` buffers of which the first `arguments` are arguments; `dims` holds the extents of each in
 * turn, `roles` the scanlib_role of all but the last, `tuning` none or all numbers of scanlib_tuning.
 * Returns "" or the error's text. */
API const char *frame_call(XLA_FFI_Handler *handler, void *on, int arguments, int count, void **data,
                           const int64_t *ranks, int64_t *dims, const int64_t *roles, int64_t axis, bool reverse,
                           int tunings, const int64_t *tuning) {
  enum { kMost = 16 };
  XLA_FFI_Buffer buffers[kMost];
  void *pointers[kMost];
  XLA_FFI_ArgType argument_types[kMost];
  XLA_FFI_RetType result_types[kMost];
  for (int i = 0; i < count; ++i) {
    buffers[i] = (XLA_FFI_Buffer){.struct_size = XLA_FFI_Buffer_STRUCT_SIZE,
                                  .dtype = i == count - 1 ? XLA_FFI_DataType_U8 : XLA_FFI_DataType_F32,
                                  .data = data[i],
                                  .rank = ranks[i],
                                  .dims = dims};
    dims += ranks[i];
    pointers[i] = &buffers[i];
    argument_types[i] = XLA_FFI_ArgType_BUFFER;
    result_types[i] = XLA_FFI_RetType_BUFFER;
  }
  XLA_FFI_Scalar along = {.dtype = XLA_FFI_DataType_S64, .value = &axis};
  XLA_FFI_Scalar backwards = {.dtype = XLA_FFI_DataType_PRED, .value = &reverse};
  XLA_FFI_Array none = {.dtype = XLA_FFI_DataType_S64, .size = 0, .data = &axis};
  XLA_FFI_Array tuned = {.dtype = XLA_FFI_DataType_S64, .size = tunings, .data = (void *)tuning};
  XLA_FFI_Array of = {.dtype = XLA_FFI_DataType_S64, .size = count - 1, .data = (void *)roles};
  XLA_FFI_ByteSpan names[] = {{"axis", 4}, {"reverse", 7}, {"roles", 5}, {"tuning", 6}, {"views", 5}}; /* sorted */
  XLA_FFI_ByteSpan *name_pointers[] = {&names[0], &names[1], &names[2], &names[3], &names[4]};
  XLA_FFI_AttrType types[] = {XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_ARRAY,
                              XLA_FFI_AttrType_ARRAY, XLA_FFI_AttrType_ARRAY};
  void *attributes[] = {&along, &backwards, &of, &tuned, &none};
  XLA_FFI_CallFrame frame = frame_of(XLA_FFI_ExecutionStage_EXECUTE);
  frame.args.size = arguments, frame.args.types = argument_types, frame.args.args = pointers;
  frame.rets.size = count - arguments, frame.rets.types = result_types, frame.rets.rets = pointers + arguments;
  frame.attrs.size = 5, frame.attrs.types = types, frame.attrs.names = name_pointers, frame.attrs.attrs = attributes;
  stream = on;
  XLA_FFI_Error *failed = handler(&frame);
  return failed ? failed->message : "";
}
