#include "pointers.h"

#include <cstdint>
#include <cstring>

#include "problem.h"

namespace scanlib {
namespace {

// Whether an operand has any element: it has one along an empty axis that it is broadcast on.
bool has_elements(const scanlib_problem &p, int role) {
  auto some = [role](const scanlib_axis &axis) { return axis.extent > 0 || axis.stride[role] == 0; };
  if (role == SCANLIB_OFFSETS) return true;
  const bool packed = given(p, SCANLIB_OFFSETS);
  bool any = some(p.inner) && (!is_state(role) ? some(p.time) : !packed || p.segments > 0 || p.time.stride[role] == 0);
  for (int d = 0; d < p.outer_rank; ++d) any = any && some(p.outer[d]);
  return any;
}

}  // namespace

int resolve_pointers(const scanlib_problem &p, const void *const *pointers, void **of) {
  if (!pointers) return SCANLIB_E_ARGUMENT;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    of[role] = nullptr;
    if (!given(p, role)) continue;
    of[role] = const_cast<void *>(pointers[role]);
    if (of[role] && p.holder_offset)
      std::memcpy(&of[role], static_cast<char *>(of[role]) + p.holder_offset, sizeof of[role]);
    if (!of[role] && has_elements(p, role)) return SCANLIB_E_ARGUMENT;
  }
  return SCANLIB_OK;
}

bool pointers_aligned(const scanlib_problem &p, void *const *of) {
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (given(p, role) && reinterpret_cast<uintptr_t>(of[role]) % uintptr_t(dtype_size(p.dtype[role]))) return false;
  return true;
}

}  // namespace scanlib
