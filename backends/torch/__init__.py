"""PyTorch: checks, promotion, outputs, and the short way for calls that nothing watches.

A call on plain tensors that neither autograd nor a mode, transform or compiler looks at goes straight to libscanlib.
Every other call goes through the operators of `ops.py`, wrapped by `autograd.py` where derivatives are
wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from scanlib import gpu, native
from scanlib.backends.torch import functions, jagged
from scanlib.backends.torch.autograd import (
    derivatives_wanted,
    recorded_scan,
    scan,
    scan_backward,
)
from scanlib.backends.torch.gates import gated_scan
from scanlib.backends.torch.ops import PLAIN, WATCHED, is_plain_call, watched_by
from scanlib.backends.torch.run import (
    backward_layouts,
    backward_plan,
    dtype_name,
    forward,
    forward_plan,
    promote,
    result_dtype,
    signature,
    sum_to,
)
from scanlib.backends.torch.sums import spread, spread_state
from scanlib.call import (
    Call,
    Shape,
    axis_index,
    check_one_device,
    dtype_code,
    resolve,
    resolve_vjp,
)
from scanlib.errors import ArrayKindError, DeviceError, OutputError
from scanlib.kinds import is_scalar, python_number
from scanlib.overlap import Memory, check_out, check_out_type
from scanlib.plan import Explanation, copy_notes
from scanlib.roles import STARTS

__all__ = ["explain", "functions", "gated_scan", "linear_recurrence", "linear_recurrence_vjp"]

State = Tensor | None

#: Devices with a kernel; on "meta" there is nothing to compute but shapes.
DEVICES = ("cpu", "cuda", "meta")

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
            a = _number_beside(a, x)
        if reset is None and offsets is None:
            watched = watched_by(a, x, h0)
        else:
            offsets = None if offsets is None else _offsets(offsets, a, x)
            watched = watched_by(a, x, h0, reset, offsets)
        if watched != WATCHED:
            axis = axis if type(axis) is int else axis_index(axis)
            if watched == PLAIN:
                # fmt: off
                h, final = forward(a, x, h0, axis, reverse, return_final, None, None, reset, offsets)
                # fmt: on
                return h if final is None else (h, final)
            call = resolve(*map(_shape, (a, x, h0)), axis, *map(_shape, (reset, offsets)))
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
    a, x, h0, reset, offsets, dtype, call = _prepare(a, x, h0, axis, reset, offsets)
    if out is not None:
        return _into(out, operands, a, x, h0, dtype, call, reverse, return_final, reset, offsets)
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
    starts = _starts(given, reset, offsets)
    _check_operands(given | starts)
    dtype = _promoted(given)
    device = h.device if isinstance(h, Tensor) else None
    if device is None or is_scalar(grad_h):
        raise ArrayKindError(
            "grad_h and h must be tensors of the result's shape, not Python numbers."
        )
    a, h0, grad_final = (_tensor(value, dtype, device) for value in (a, h0, grad_final))
    call = _resolved(
        resolve_vjp,
        *map(_shape, (grad_h, a, h, h0, grad_final)),
        axis_index(axis),
        *map(_shape, starts.values()),
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
    offsets = None if offsets is None else _offsets(offsets, a, x)
    direct = is_plain_call(a, x, h0, reset, offsets)
    a, x, h0 = map(python_number, (a, x, h0))
    a, x, h0, reset, offsets, dtype, call = _prepare(a, x, h0, axis, reset, offsets)
    given = {role: t for role, t in (("a", a), ("x", x), ("h0", h0)) if t is not None}
    notes = []
    if derivatives_wanted(*given.values()):
        notes.append(
            "autograd or a torch.func transform records the call: scanlib::scan in an autograd.Function"
        )
    elif not direct:
        notes.append("the call goes through torch's dispatcher as scanlib::scan")
    notes += copy_notes([(role, why) for role, t in given.items() if (why := _copied_because(t))])
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


# ---- checks and promotion


def _prepare(
    a: Any, x: Any, h0: Any, axis: Any, reset: Any, offsets: Any
) -> tuple[Tensor, Tensor, State, State, State, torch.dtype, Call]:
    """Tensors for all operands, the result's dtype, and the problem; raises where they do not fit together."""
    given = {"a": a, "x": x, "h0": h0}
    starts = _starts(given, reset, offsets)
    _check_operands(given | starts)
    dtype = _promoted(given)
    device = _device(*given.values())
    a, x, h0 = (_tensor(value, dtype, device) for value in given.values())
    shapes = *map(_shape, (a, x, h0)), axis_index(axis), *map(_shape, starts.values())
    return a, x, h0, *starts.values(), dtype, _resolved(resolve, *shapes)


def _shape(tensor: State) -> Shape | None:
    return None if tensor is None else tuple(tensor.shape)


def _device(*operands: Any) -> torch.device:
    return next(value.device for value in operands if isinstance(value, Tensor))


def _starts(given: dict[str, Any], reset: Any, offsets: Any) -> dict[str, State]:
    """reset and offsets as tensors, by name; `given` are the other operands."""
    if reset is not None and not isinstance(reset, Tensor):
        dtype_code(type(reset).__name__, "reset")
    return {
        "reset": reset,
        "offsets": None if offsets is None else _offsets(offsets, *given.values()),
    }


def _offsets(given: Any, *operands: Any) -> Tensor:
    """Offsets as a tensor of a dtype that kernels read; a list or NumPy array where the operands are."""
    if isinstance(given, Tensor):
        return given if given.dtype in _COUNTS else _counted(given)
    if not isinstance(given, (list, tuple, range, np.ndarray)):
        raise ArrayKindError(
            f"offsets is a {type(given).__name__}; it must be a list, a NumPy array or a tensor of integers."
        )
    if isinstance(given, np.ndarray) and not _compiling() and given.dtype.kind in "iu":
        given = given.astype(np.int32 if given.dtype == np.int32 else np.int64, copy=False)
    # A copy: an array that its owner writes to would change a gradient that is still to come.
    counts = _counted(torch.as_tensor(given, device="cpu").clone())
    return counts.to(_device(*operands), non_blocking=True)


def _counted(offsets: Tensor) -> Tensor:
    """Integers of any width, or no numbers at all, as int64."""
    integers = not (
        offsets.is_floating_point() or offsets.is_complex() or offsets.dtype is torch.bool
    )
    counted = integers and offsets.dtype not in _COUNTS
    return offsets.to(torch.int64) if counted or offsets.shape == (0,) else offsets


_COUNTS = (torch.int32, torch.int64)


def _check_operands(given: dict[str, Any]) -> None:
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_nested or tensor.layout is not torch.strided:
            kind = "nested" if tensor.is_nested else str(tensor.layout)
            raise ArrayKindError(
                f"{name} is a {kind} tensor; scanlib takes strided ones. Convert it first, for example with "
                f"{name}.to_padded_tensor(0.0) or {name}.to_dense()."
            )
        dtype_code(dtype_name(tensor.dtype), name)
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    check_one_device(devices, "tensors", "Move them with .to(device).")
    for name, tensor in tensors.items():
        if tensor.device.type not in DEVICES:
            raise DeviceError(
                f"{name} is on {tensor.device}, for which this scanlib has no kernel: torch tensors are served on "
                f"{', '.join(DEVICES)}. Move the tensors with .to('cpu')."
            )


def _promoted(given: dict[str, Any]) -> torch.dtype:
    """torch's result dtype; Python numbers only decide whether it is complex."""
    tensors = [(value.dtype, value.ndim) for value in given.values() if isinstance(value, Tensor)]
    dtype = result_dtype(tensors, tuple(type(value) for value in given.values()))
    dtype_code(dtype_name(dtype), "the result")
    return dtype


def _tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A Python number as a tensor without axes, at float32 at least, as torch takes it; others as they are."""
    if not is_scalar(value):
        return value
    wide = promote(dtype, torch.float32) if isinstance(value, complex) else _NUMBER[dtype]
    return torch.full((), value, dtype=wide, device=device)


def _number_beside(a: float, x: Tensor) -> Any:
    """The same for a lone number beside a plain tensor, quickly; `a` as it is where that has a strange dtype."""
    dtype = _NUMBER.get(x.dtype)
    if dtype is None:
        return a
    if x.is_cuda:  # filled by a kernel: copying a number to a GPU would wait for it
        return torch.full((), a, dtype=dtype, device=x.device)
    return torch.tensor(a, dtype=dtype, device="cpu")


_NUMBER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def _resolved(function: Any, *arguments: Any) -> Call:
    """`resolve` or `resolve_vjp`, past their cache where lengths are symbols, which do not hash."""
    if _compiling():
        return function.__wrapped__(*arguments)
    try:
        return function(*arguments)
    except TypeError:
        return function.__wrapped__(*arguments)


def _copied_because(tensor: Tensor) -> str:
    """Why this tensor is copied before libscanlib reads it; empty if it is not."""
    if tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor():
        return "it is a conjugate, negative or zero view whose memory holds other values"
    if tensor.is_cuda and tensor.data_ptr() % tensor.element_size():
        return "its address is not a multiple of its element size"
    return ""


# ---- writing into `out`


def _into(
    out: Tensor,
    operands: tuple[Any, Any, Any],
    a: Tensor,
    x: Tensor,
    h0: State,
    dtype: torch.dtype,
    call: Call,
    reverse: bool,
    return_final: bool,
    reset: State,
    offsets: State,
) -> Tensor | tuple[Tensor, Tensor]:
    _check_operands({"out": out, "x": x})
    if torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (*operands, out)
    ):
        raise OutputError(
            "out cannot be used where autograd records: a, x, h0 or out requires grad. Call without out, or under "
            "torch.no_grad()."
        )
    if not _compiling() and derivatives_wanted(out):
        raise OutputError(
            "out cannot be used inside torch.func transforms or forward-mode AD. Call without it."
        )
    given = *operands, reset, offsets
    watched = _compiling() or not is_plain_call(a, x, h0, out, reset, offsets)
    if not watched or (not _compiling() and all(type(t) in _PLAIN for t in (*given, out))):
        named = zip(("a", "x", "h0", *STARTS), given, strict=True)
        memory = {role: _memory(t) for role, t in named if isinstance(t, Tensor)}
        check_out(_memory(out), call.shape, dtype_name(dtype), memory)
    else:  # a compiler's tensors have no memory; the result is made elsewhere and copied
        check_out_type(tuple(out.shape), dtype_name(out.dtype), call.shape, dtype_name(dtype))
    final: Tensor | None
    if watched:
        x, h0 = spread(x, call.shape), spread_state(h0, call.state_shape)
        h, final = scan(a, x, h0, call.axis, reverse, return_final, dtype, reset, offsets)
        out.copy_(h)
    else:
        _, final = forward(a, x, h0, call.axis, reverse, return_final, dtype, out, reset, offsets)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)
    return (out, final) if return_final and final is not None else out


# What `out` and operands are where memory can be looked at: no compiler's tensors, no subclasses of unknown storage.
_PLAIN = (Tensor, Parameter, float, int, complex, type(None))


def _memory(tensor: Tensor) -> Memory:
    itemsize = tensor.element_size()
    return Memory(
        tensor.data_ptr(),
        tuple(tensor.shape),
        tuple(stride * itemsize for stride in tensor.stride()),
        itemsize,
        dtype_name(tensor.dtype),
    )
