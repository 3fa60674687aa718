"""PyTorch: checks, promotion, outputs, and the short way for calls that nothing watches.

A call on plain tensors that neither autograd nor a mode, transform or compiler looks at goes straight to libscanlib.
Every other call goes through the operators of `_torch_ops.py`, wrapped by `_torch_autograd.py` where derivatives are
wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from scanlib import gpu, native
from scanlib.backends._torch_autograd import derivatives_wanted, scan, scan_backward
from scanlib.backends._torch_ops import unwatched
from scanlib.backends._torch_run import (
    copy,
    dtype_name,
    forward,
    forward_plan,
    promote,
    result_dtype,
    signature,
    sum_to,
)
from scanlib.backends._torch_sums import spread, spread_state
from scanlib.dispatch import Explanation, is_scalar, python_number
from scanlib.errors import ArrayKindError, DeviceError, OutputError
from scanlib.overlap import Memory, check_out, check_out_type
from scanlib.problem import Problem, axis_index, dtype_code, resolve, resolve_vjp

#: Devices with a kernel; on "meta" there is nothing to compute but shapes.
DEVICES = ("cpu", "cuda", "meta")

_compiling = torch.compiler.is_dynamo_compiling


def linear_recurrence(
    a: Any, x: Any, h0: Any, axis: Any, reverse: bool, return_final: bool, out: Any
) -> Tensor | tuple[Tensor, Tensor]:
    if out is None and not _compiling():
        if type(a) is float and h0 is None and unwatched(x, x):
            a = _number_beside(a, x)
        if unwatched(a, x, h0):
            axis = axis if type(axis) is int else axis_index(axis)
            h, final = forward(a, x, h0, axis, reverse, return_final)
            return h if final is None else (h, final)
    operands = a, x, h0 = python_number(a), python_number(x), python_number(h0)
    a, x, h0, dtype, problem = _prepare(a, x, h0, axis)
    if out is not None:
        return _into(out, operands, a, x, h0, dtype, problem, reverse, return_final)
    x, h0 = spread(x, problem.shape), spread_state(h0, problem.state_shape)
    h, final = scan(a, x, h0, problem.axis, reverse, return_final, dtype)
    return (h, final) if return_final else h


def linear_recurrence_vjp(
    grad_h: Any, a: Any, h: Any, h0: Any, axis: Any, reverse: bool, grad_final: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    grad_h, a, h, h0, grad_final = map(python_number, (grad_h, a, h, h0, grad_final))
    given = {"grad_h": grad_h, "a": a, "h": h, "h0": h0, "grad_final": grad_final}
    _check_operands(given)
    dtype = _promoted(given)
    device = h.device if isinstance(h, Tensor) else None
    if device is None or is_scalar(grad_h):
        raise ArrayKindError(
            "grad_h and h must be tensors of the result's shape, not Python numbers."
        )
    a, h0, grad_final = (_tensor(value, dtype, device) for value in (a, h0, grad_final))
    shapes = (None if t is None else tuple(t.shape) for t in (h0, grad_final))
    problem = _resolved(
        resolve_vjp, tuple(grad_h.shape), tuple(a.shape), tuple(h.shape), *shapes, axis_index(axis)
    )
    grad_a, grad_x, grad_h0 = scan_backward(
        grad_h,
        spread_state(grad_final, problem.state_shape),
        a,
        h,
        spread_state(h0, problem.state_shape),
        problem.axis,
        reverse,
        grad_h.dtype,
    )
    return grad_a, grad_x, None if h0 is None else sum_to(grad_h0, h0.shape).to(h0.dtype)


def explain(a: Any, x: Any, h0: Any, axis: Any, reverse: bool) -> Explanation:
    direct = unwatched(a, x, h0)
    a, x, h0 = map(python_number, (a, x, h0))
    a, x, h0, dtype, problem = _prepare(a, x, h0, axis)
    given = {name: t for name, t in (("a", a), ("x", x), ("h0", h0)) if t is not None}
    notes = []
    if derivatives_wanted(*given.values()):
        notes.append(
            "autograd or a torch.func transform records the call: scanlib::scan in an autograd.Function"
        )
    elif not direct:
        notes.append("the call goes through torch's dispatcher as scanlib::scan")
    notes += [f"{name} is copied: {why}" for name, t in given.items() if (why := _awkward(t))]
    if x.device.type == "meta":
        return Explanation("torch", str(x.device), "shapes only", "none", tuple(notes))
    a, x, h0 = (
        t if t is None or not _awkward(t) else t.resolve_conj().resolve_neg().clone()
        for t in (a, x, h0)
    )
    state = None if h0 is None else signature(h0)
    rest = (problem.axis, reverse, False, torch.get_num_threads(), dtype)
    try:
        plan = forward_plan(*signature(a), *signature(x), state, *rest)
    except native.RankError:
        notes.append(
            f"all operands are copied: more than {native.MAX_OUTER} axes are left after merging"
        )
        a, x, h0 = copy(a, problem.shape), copy(x, problem.shape), copy(h0, problem.state_shape)
        plan = forward_plan(
            *signature(a), *signature(x), None if h0 is None else signature(h0), *rest
        )
    describe = gpu.describe if x.is_cuda else native.describe
    path = f"libscanlib ({x.device.type})"
    return Explanation("torch", str(x.device), path, describe(plan.native), tuple(notes))


# ---- checks and promotion


def _prepare(
    a: Any, x: Any, h0: Any, axis: Any
) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype, Problem]:
    """Tensors for all operands, the result's dtype, and the problem; raises where they do not fit together."""
    given = {"a": a, "x": x, "h0": h0}
    _check_operands(given)
    dtype = _promoted(given)
    device = next(value.device for value in given.values() if isinstance(value, Tensor))
    a, x, h0 = (_tensor(value, dtype, device) for value in given.values())
    state_shape = None if h0 is None else tuple(h0.shape)
    problem = _resolved(resolve, tuple(a.shape), tuple(x.shape), state_shape, axis_index(axis))
    return a, x, h0, dtype, problem


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
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise DeviceError(
            f"All tensors must be on one device, but {places}. Move them with .to(device)."
        )
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


def _resolved(function: Any, *arguments: Any) -> Problem:
    """`resolve` or `resolve_vjp`, past their cache where lengths are symbols, which do not hash."""
    if _compiling():
        return function.__wrapped__(*arguments)
    try:
        return function(*arguments)
    except TypeError:
        return function.__wrapped__(*arguments)


def _awkward(tensor: Tensor) -> str:
    """Why libscanlib cannot read this tensor's memory as it lies; empty if it can."""
    if tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor():
        return "it is a conjugate, negative or zero view whose memory holds other values"
    if tensor.device.type in ("cpu", "cuda") and tensor.data_ptr() % _alignment(tensor):
        return "its address is not a multiple of its element size"
    return ""


def _alignment(tensor: Tensor) -> int:
    # CUDA kernels access a complex element at once.
    return tensor.element_size() // (2 if tensor.is_complex() and not tensor.is_cuda else 1)


# ---- writing into `out`


def _into(
    out: Tensor,
    operands: tuple[Any, Any, Any],
    a: Tensor,
    x: Tensor,
    h0: Tensor | None,
    dtype: torch.dtype,
    problem: Problem,
    reverse: bool,
    return_final: bool,
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
    watched = _compiling() or not unwatched(a, x, h0, out)
    if not watched or (not _compiling() and all(type(t) in _PLAIN for t in (*operands, out))):
        a_memory, x_memory, h0_memory = (
            _memory(t) if isinstance(t, Tensor) else None for t in operands
        )
        name = dtype_name(dtype)
        check_out(_memory(out), problem.shape, name, a=a_memory, x=x_memory, h0=h0_memory)
    else:  # a compiler's tensors have no memory; the result is made elsewhere and copied
        check_out_type(tuple(out.shape), dtype_name(out.dtype), problem.shape, dtype_name(dtype))
    final: Tensor | None
    if watched:
        x, h0 = spread(x, problem.shape), spread_state(h0, problem.state_shape)
        h, final = scan(a, x, h0, problem.axis, reverse, return_final, dtype)
        out.copy_(h)
    else:
        _, final = forward(a, x, h0, problem.axis, reverse, return_final, dtype, out)
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
