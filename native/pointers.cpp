#include "pointers.h"

#include <cstring>

#include "problem.h"

namespace scanlib {
namespace {

// Whether an operand has any element: it has one along an empty axis that it is broadcast on.
bool has_elements(const scanlib_problem &p, int role) {
  const scanlib_layout &layout = p.operand[role];
  auto some = [](int64_t extent, int64_t stride) { return extent > 0 || stride == 0; };
  bool any = some(p.inner, layout.inner) && (is_state(role) || some(p.time, layout.time));
  for (int d = 0; d < p.outer_rank; ++d) any = any && some(p.outer[d], layout.outer[d]);
  return any;
}

void *writable(const void *pointer) { return const_cast<void *>(pointer); }

}  // namespace

int resolve_pointers(const scanlib_problem &p, Alignment alignment, void **of) {
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    void *&pointer = of[role];
    if (pointer && p.holder_offset)
      std::memcpy(&pointer, static_cast<char *>(pointer) + p.holder_offset, sizeof pointer);
    const int32_t dtype = p.operand[role].dtype;
    const bool given = dtype != SCANLIB_ABSENT;
    if (given != (pointer != nullptr) && !(given && !has_elements(p, role))) return SCANLIB_E_ARGUMENT;
    if (!given || !pointer) continue;
    const bool pair = alignment == Alignment::Number && (dtype == SCANLIB_C64 || dtype == SCANLIB_C128);
    const int64_t size = dtype_size(dtype);
    if (reinterpret_cast<uintptr_t>(pointer) % uintptr_t(pair ? size / 2 : size)) return SCANLIB_E_ALIGNMENT;
  }
  return SCANLIB_OK;
}

void forward_pointers(const void *a, const void *x, const void *h0, void *h, void *final_state, void **of) {
  std::memset(of, 0, SCANLIB_ROLES * sizeof *of);
  of[SCANLIB_A] = writable(a);
  of[SCANLIB_X] = writable(x);
  of[SCANLIB_H0] = writable(h0);
  of[SCANLIB_H] = h;
  of[SCANLIB_FINAL] = final_state;
}

void backward_pointers(const void *a, const void *h, const void *h0, const void *grad_h, const void *grad_final,
                       void *grad_a, void *grad_x, void *grad_h0, void **of) {
  std::memset(of, 0, SCANLIB_ROLES * sizeof *of);
  of[SCANLIB_A] = writable(a);
  of[SCANLIB_H] = writable(h);
  of[SCANLIB_H0] = writable(h0);
  of[SCANLIB_GRAD_H] = writable(grad_h);
  of[SCANLIB_GRAD_FINAL] = writable(grad_final);
  of[SCANLIB_GRAD_A] = grad_a;
  of[SCANLIB_GRAD_X] = grad_x;
  of[SCANLIB_GRAD_H0] = grad_h0;
}

}  // namespace scanlib
