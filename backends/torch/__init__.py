"""PyTorch: the short ways of calls that nothing, or autograd alone, looks at, and the long way of all others.

A call on plain tensors that no mode, transform or compiler looks at goes straight to libscanlib, in an
autograd.Function where a gradient is wanted. Every other call goes through the operators of `ops.py`, wrapped by
`autograd.py` where derivatives are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.backends.torch import functions, jagged
from scanlib.backends.torch.arguments import (
    check_operands,
    copied_because,
    number_beside,
    offsets_of,
    prepare,
    promoted,
    resolved,
    shape_of,
    starts_of,
    tensor_of,
)
from scanlib.backends.torch.autograd import (
    derivatives_wanted,
    recorded_scan,
    scan,
    scan_backward,
)
from scanlib.backends.torch.gates import gated_scan
from scanlib.backends.torch.into import into
from scanlib.backends.torch.ops import PLAIN, WATCHED, is_plain_call, watched_by
from scanlib.backends.torch.plans import backward_layouts, backward_plan, forward_plan, signature
from scanlib.backends.torch.run import forward
from scanlib.backends.torch.sums import spread, spread_state, sum_to
from scanlib.call import axis_index, resolve, resolve_vjp
from scanlib.errors import ArrayKindError, OutputError
from scanlib.kinds import is_scalar, python_number
from scanlib.plan import Explanation, copy_notes

__all__ = ["explain", "functions", "gated_scan", "linear_recurrence", "linear_recurrence_vjp"]

_compiling = torch.compiler.is_dynamo_compiling


def linear_recurrence(
    a: Any,
    x: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    return_final: bool,
    out: Any,
    reset: Any = None,
    offsets: Any = None,
) -> Any:
    if out is None and not _compiling():
        if type(a) is float and h0 is None and watched_by(x) != WATCHED:
            a = number_beside(a, x)
        if reset is None and offsets is None:
            watched = watched_by(a, x, h0)
        else:
            offsets = None if offsets is None else offsets_of(offsets, a, x)
            watched = watched_by(a, x, h0, reset, offsets)
        if watched != WATCHED:
            axis = axis if type(axis) is int else axis_index(axis)
            if watched == PLAIN:
                # fmt: off
                h, final = forward(a, x, h0, axis, reverse, return_final, None, None, reset, offsets)
                # fmt: on
                return h if final is None else (h, final)
            call = resolve(*map(shape_of, (a, x, h0)), axis, *map(shape_of, (reset, offsets)))
            # Where x or h0 is repeated their gradients are sums, which the longer way makes.
            if x.shape == call.shape and (h0 is None or h0.shape == call.state_shape):
                return recorded_scan(a, x, h0, call.axis, reverse, return_final, reset, offsets)
    if (packed := jagged.packed({"a": a, "x": x}, axis, reset, offsets)) is not None:
        if out is not None:
            raise OutputError("out cannot be used beside nested tensors. Call without it.")
        a, x = packed.operands.values()
        found = linear_recurrence(
            a, x, h0, jagged.AXIS, reverse, return_final, None, None, packed.offsets
        )
        return (packed.nested(found[0]), found[1]) if return_final else packed.nested(found)
    operands = a, x, h0 = python_number(a), python_number(x), python_number(h0)
    a, x, h0, reset, offsets, dtype, call = prepare(a, x, h0, axis, reset, offsets)
    if out is not None:
        return into(out, operands, a, x, h0, dtype, call, reverse, return_final, reset, offsets)
    x, h0 = spread(x, call.shape), spread_state(h0, call.state_shape)
    h, final = scan(a, x, h0, call.axis, reverse, return_final, dtype, reset, offsets)
    return (h, final) if return_final else h


def linear_recurrence_vjp(
    grad_h: Any,
    a: Any,
    h: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    grad_final: Any,
    reset: Any = None,
    offsets: Any = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    long = {"grad_h": grad_h, "a": a, "h": h}
    if (packed := jagged.packed(long, axis, reset, offsets)) is not None:
        own, (grad_h, a, h) = a, packed.operands.values()
        grad_a, grad_x, grad_h0 = linear_recurrence_vjp(
            grad_h, a, h, h0, jagged.AXIS, reverse, grad_final, None, packed.offsets
        )
        if isinstance(own, Tensor):
            grad_a = packed.nested(grad_a) if own.is_nested else grad_a.reshape(own.shape)
        return grad_a, packed.nested(grad_x), grad_h0
    grad_h, a, h, h0, grad_final = map(python_number, (grad_h, a, h, h0, grad_final))
    given = {"grad_h": grad_h, "a": a, "h": h, "h0": h0, "grad_final": grad_final}
    starts = starts_of(given, reset, offsets)
    check_operands(given | starts)
    dtype = promoted(given)
    device = h.device if isinstance(h, Tensor) else None
    if device is None or is_scalar(grad_h):
        raise ArrayKindError(
            "grad_h and h must be tensors of the result's shape, not Python numbers."
        )
    a, h0, grad_final = (tensor_of(value, dtype, device) for value in (a, h0, grad_final))
    call = resolved(
        resolve_vjp,
        *map(shape_of, (grad_h, a, h, h0, grad_final)),
        axis_index(axis),
        *map(shape_of, starts.values()),
    )
    grad_a, grad_x, grad_h0 = scan_backward(
        grad_h,
        spread_state(grad_final, call.state_shape),
        a,
        h,
        spread_state(h0, call.state_shape),
        call.axis,
        reverse,
        grad_h.dtype,
        *starts.values(),
    )
    return grad_a, grad_x, None if h0 is None else sum_to(grad_h0, h0.shape).to(h0.dtype)


def explain(
    a: Any,
    x: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    backward: bool,
    reset: Any = None,
    offsets: Any = None,
) -> Explanation:
    if (packed := jagged.packed({"a": a, "x": x}, axis, reset, offsets)) is not None:
        a, x = packed.operands.values()
        return explain(a, x, h0, jagged.AXIS, reverse, backward, None, packed.offsets)
    offsets = None if offsets is None else offsets_of(offsets, a, x)
    direct = is_plain_call(a, x, h0, reset, offsets)
    a, x, h0 = map(python_number, (a, x, h0))
    a, x, h0, reset, offsets, dtype, call = prepare(a, x, h0, axis, reset, offsets)
    given = {role: t for role, t in (("a", a), ("x", x), ("h0", h0)) if t is not None}
    notes = []
    if derivatives_wanted(*given.values()):
        notes.append("autograd or a torch.func transform records the call, in an autograd.Function")
    elif not direct:
        notes.append("the call goes through torch's dispatcher as scanlib::scan")
    notes += copy_notes([(role, why) for role, t in given.items() if (why := copied_because(t))])
    if x.device.type == "meta":
        return Explanation("torch", str(x.device), "shapes only", "none", tuple(notes))
    threads = torch.get_num_threads()
    state, *starts = (None if t is None else signature(t) for t in (h0, reset, offsets))
    options: dict[str, Any] = {"threads": threads, "target": gpu.target() if x.is_cuda else gpu.CPU}
    options |= {"starts": tuple(starts)}
    made = forward_plan(
        *signature(a), *signature(x), state, call.axis, reverse, False, dtype=dtype, **options
    )
    problem = made.plan.native
    if backward:
        h = call.shape, made.strides, dtype
        layouts = backward_layouts(signature(a), h, state, x.dtype, options.pop("starts"))
        problem = backward_plan(layouts, call.axis, reverse, **options).native
    describe = gpu.describe if x.is_cuda else native.describe
    path = f"libscanlib ({x.device.type})"
    return Explanation("torch", str(x.device), path, describe(problem), tuple(notes))
