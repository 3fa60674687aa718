"""What results on torch's tensors look like, and plans: worked out once for the same shapes, strides and dtypes.

Nothing here knows autograd, transforms or compilers.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scanlib import gpu
from scanlib.backends.torch.dtypes import dtype_name, result_dtype
from scanlib.call import Call, Shape, call_of, dtype_code, resolve
from scanlib.plan import Layout, Output, Plan, dense, make
from scanlib.roles import BACKWARD, INITIAL, STARTS

#: shape, strides in elements and dtype: all a plan depends on
Signature = tuple[Shape, Shape, torch.dtype]
#: Of reset and of offsets.
Starts = tuple[Signature | None, Signature | None]
_NONE: Starts = (None, None)

# ---- outputs, for kernels and for shape inference


def empty_result(a: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty `h`, in the memory order of `x` as pointwise operations keep it, or of `a` where `x` was expanded.

    Strides of axes of length 1 are those that torch gives "meta" tensors, so that compiled programs have the same.
    """
    for like in (x, a):
        if like.shape == x.shape and all(
            n <= 1 or s != 0 for n, s in zip(like.shape, like.stride(), strict=True)
        ):
            return torch.empty_like(like, dtype=dtype)
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def call_on(shape: Shape, axis: int, offsets: Shape | None) -> Call:
    """The call whose result has a shape, with offsets of a shape or without any."""
    return call_of(tuple(shape), axis, None if offsets is None else offsets[0] - 1)


def state_shape(shape: Shape, axis: int, offsets: Tensor | None) -> Shape:
    """The shape of a state of a result of a shape."""
    return call_on(shape, axis, None if offsets is None else offsets.shape).state_shape


def empty_final(
    x: Tensor, axis: int, wanted: bool, dtype: torch.dtype, offsets: Tensor | None = None
) -> Tensor:
    shape = state_shape(x.shape, axis, offsets) if wanted else (0,)
    return torch.empty(shape, dtype=dtype, device=x.device)


def empty_grads(
    a: Tensor, h: Tensor, initial: Tensor | None, x_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    grad_h0 = (
        torch.empty((0,), dtype=h.dtype, device=h.device)
        if initial is None
        else torch.empty_like(initial)
    )
    return torch.empty_like(a), torch.empty_like(h, dtype=x_dtype), grad_h0


# ---- plans


class TorchPlan(NamedTuple):
    """A plan, and how to allocate `h`."""

    plan: Plan
    shape: Shape
    strides: Shape
    dtype: torch.dtype
    empty: bool  # there is nothing to compute


def signature(tensor: Tensor) -> Signature:
    return tensor.shape, tensor.stride(), tensor.dtype


def _layout(given: Signature) -> Layout:
    shape, strides, dtype = given
    size = dtype.itemsize
    return Layout(tuple(shape), tuple(stride * size for stride in strides), dtype_name(dtype))


def _meta(given: Signature) -> Tensor:
    return torch.empty_strided(given[0], given[1], dtype=given[2], device="meta")


@functools.lru_cache(maxsize=1024)
def forward_plan(
    a_shape: Shape,
    a_strides: Shape,
    a_dtype: torch.dtype,
    x_shape: Shape,
    x_strides: Shape,
    x_dtype: torch.dtype,
    initial: Signature | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    threads: int,
    dtype: torch.dtype | None = None,
    out_strides: Shape | None = None,
    target: gpu.Target = gpu.CPU,
    starts: Starts | None = None,
) -> TorchPlan:
    """The plan of a call on tensors with these signatures; `starts` are those of reset and offsets, or None."""
    a, x = (a_shape, a_strides, a_dtype), (x_shape, x_strides, x_dtype)
    given = {"a": a, "x": x} | ({} if initial is None else {INITIAL: initial})
    layouts = {role: _layout(value) for role, value in given.items()}
    layouts |= {
        r: _layout(v) for r, v in zip(STARTS, starts or _NONE, strict=True) if v is not None
    }
    for role, layout in layouts.items():
        dtype_code(layout.dtype, role)
    shapes = {role: layout.shape for role, layout in layouts.items()}
    call = resolve(shapes["a"], shapes["x"], shapes.get(INITIAL), axis, *map(shapes.get, STARTS))
    if dtype is None:
        dtype = result_dtype([(value[2], len(value[0])) for value in given.values()])
    name = dtype_name(dtype)
    dtype_code(name, "the result")
    strides = out_strides
    if strides is None:
        strides = empty_result(_meta(a), _meta(x).expand(call.shape), dtype).stride()
    layouts["h"] = _layout((call.shape, strides, dtype))
    outputs = {"h": Output(call.shape, dtype)}
    if return_final:
        layouts["final"] = dense(call.state_shape, name)
        outputs["final"] = Output(call.state_shape, dtype)
    options: dict[str, Any] = {"target": target, "threads": threads, "openmp": True}
    plan = make(call, layouts, outputs, reverse=reverse, **options)
    return TorchPlan(plan, call.shape, strides, dtype, 0 in call.shape)


@functools.lru_cache(maxsize=1024)
def backward_plan(
    given: tuple[tuple[str, Signature], ...],
    axis: int,
    reverse: bool,
    threads: int,
    target: gpu.Target = gpu.CPU,
) -> Plan:
    """The plan of a gradient from operands by role with these signatures."""
    layouts = {role: _layout(value) for role, value in given}
    offsets = layouts.get("offsets")
    call = call_on(layouts["h"].shape, axis, None if offsets is None else offsets.shape)
    options: dict[str, Any] = {"target": target, "threads": threads, "openmp": True}
    return make(call, layouts, {}, reverse=reverse, conjugate=True, **options)


def backward_layouts(
    a: Signature,
    h: Signature,
    initial: Signature | None,
    x_dtype: torch.dtype,
    starts: Starts,
) -> tuple[tuple[str, Signature], ...]:
    """What `backward` is given and allocates for operands like these, where grad_h is laid out as `h`."""
    h_like = _meta(h)
    state = None if initial is None else _meta(initial)
    grads = empty_grads(_meta(a), h_like, state, x_dtype)
    named = {"a": a, "h": h, INITIAL: initial, "grad_h": h}
    named |= dict(zip(("grad_a", "grad_x"), map(signature, grads[:2]), strict=True))
    named["grad_h0"] = None if initial is None else signature(grads[2])
    named |= dict(zip(STARTS, starts, strict=True))
    roles = (*BACKWARD, *STARTS)
    return tuple((role, value) for role in roles if (value := named.get(role)) is not None)
