"""libscanlib on torch's tensors: what the results look like, prepared problems, and running them.

Nothing here knows autograd, transforms or compilers; the tensors are plain ones, as `ops.py` sees to.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.backends.torch.cuda import aligned, bytes_of, is_aligned, launch, target_of
from scanlib.call import DTYPES, Call, Shape, call_of, dtype_code, reduced_axes, resolve
from scanlib.plan import Layout, Output, Plan, dense, make
from scanlib.roles import BACKWARD, FORWARD, NAMES, STARTS

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
    a: Tensor, h: Tensor, h0: Tensor | None, x_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    grad_h0 = (
        torch.empty((0,), dtype=h.dtype, device=h.device) if h0 is None else torch.empty_like(h0)
    )
    return torch.empty_like(a), torch.empty_like(h, dtype=x_dtype), grad_h0


# ---- plans: what is worked out once for tensors of the same shapes, strides and dtypes


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


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# All pairs, worked out ahead: torch.export would put a call of torch.promote_types into the graph.
_FLOATING = [getattr(torch, name) for name in DTYPES]
_PROMOTED = {(p, q): torch.promote_types(p, q) for p in _FLOATING for q in _FLOATING}


def promote(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """`torch.promote_types` for the dtypes of `scanlib.call.DTYPES`."""
    return _PROMOTED[first, second]


def _meta(given: Signature) -> Tensor:
    return torch.empty_strided(given[0], given[1], dtype=given[2], device="meta")


#: The complex dtype of a real one, asked for ahead as well. That of bfloat16 is complex64, and from torch 2.14 on
#: bcomplex32, which like complex32 is refused.
COMPLEX = {
    dtype: torch.result_type(torch.empty(0, dtype=dtype), 1j)
    for dtype in _FLOATING
    if not dtype.is_complex
}


def result_dtype(
    given: list[tuple[torch.dtype, int]], numbers: tuple[type, ...] = ()
) -> torch.dtype:
    """torch's promotion of (dtype, number of axes) and Python numbers.

    Tensors without axes and Python numbers decide only whether the result is complex, never its precision.
    """
    result: torch.dtype | None = None
    for group in ([d for d, ndim in given if ndim], [d for d, ndim in given if not ndim]):
        if group:
            dtype = functools.reduce(promote, group)
            if result is None:
                result = dtype
            elif dtype.is_complex and not result.is_complex:
                result = COMPLEX[result]
    assert result is not None
    return COMPLEX[result] if complex in numbers and not result.is_complex else result


@functools.lru_cache(maxsize=1024)
def forward_plan(
    a_shape: Shape,
    a_strides: Shape,
    a_dtype: torch.dtype,
    x_shape: Shape,
    x_strides: Shape,
    x_dtype: torch.dtype,
    h0: Signature | None,
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
    given = {"a": a, "x": x} | ({} if h0 is None else {"h0": h0})
    layouts = {role: _layout(value) for role, value in given.items()}
    layouts |= {
        r: _layout(v) for r, v in zip(STARTS, starts or _NONE, strict=True) if v is not None
    }
    for role, layout in layouts.items():
        dtype_code(layout.dtype, role)
    shapes = {role: layout.shape for role, layout in layouts.items()}
    call = resolve(shapes["a"], shapes["x"], shapes.get("h0"), axis, *map(shapes.get, STARTS))
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


# ---- running


def _find_openmp() -> int | None:
    """GOMP_parallel of the OpenMP runtime on which torch's own loops run, if it has one.

    Its threads stay awake for a while after each loop: those of a second pool would wait for them on the same cores.
    """
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/lib*omp*.*"), *folder.glob("../torch.libs/lib*omp*")]
    for library in (*map(str, found), "libgomp.so.1", "libomp.so"):
        try:
            loaded = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            return ctypes.cast(loaded.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


native.library().scanlib_cpu_set_openmp(_find_openmp())

_native_run = native.library().scanlib_cpu_run
_pack = native.pack_forward
assert NAMES[-len(STARTS) :] == STARTS
#: What follows the pointers of a forward pass where sequences start inside the axis: none up to those of `STARTS`.
_BETWEEN = struct.pack("P", 0) * (len(NAMES) - len(FORWARD) - len(STARTS))
_pack_starts = struct.Struct(f"{len(STARTS)}P").pack


def _empty_strided(shape: Shape, strides: Shape, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")


#: What torch.compile's programs allocate with, where this torch has it: `empty_strided` past torch's dispatcher.
_empty_on_cpu: Callable[[Shape, Shape, torch.dtype], Tensor] = getattr(
    torch._C._dynamo.guards, "_empty_strided_cpu", _empty_strided
)


def forward(
    a: Tensor,
    x: Tensor,
    h0: Tensor | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    reset: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the forward kernel on tensors of one device that hold plain values (no conjugate or negative bit)."""
    cuda = x.is_cuda
    # fmt: off
    if cuda and not (is_aligned(a) and is_aligned(x) and is_aligned(h0) and is_aligned(out)
                     and is_aligned(offsets)):
        # fmt: on
        a, x, h0, offsets = map(aligned, (a, x, h0, offsets))
        h, final = forward(a, x, h0, axis, reverse, return_final, dtype, None, reset, offsets)
        if out is not None:
            bytes_of(out).copy_(bytes_of(h))
        return h if out is None else out, final
    starts = None
    if reset is not None or offsets is not None:
        starts = (
            None if reset is None else signature(reset),
            None if offsets is None else signature(offsets),
        )
    # fmt: off
    plan = forward_plan(a.shape, a.stride(), a.dtype, x.shape, x.stride(), x.dtype,
                        None if h0 is None else signature(h0), axis, reverse, return_final,
                        torch.get_num_threads(), dtype, None if out is None else out.stride(),
                        target_of(x) if cuda else gpu.CPU, starts)
    # fmt: on
    made, shape, strides, result, empty = plan
    if out is not None:
        h = out
    elif cuda:
        h = torch.empty_strided(shape, strides, dtype=result, device=x.device)
    else:
        h = _empty_on_cpu(shape, strides, result)
    final = None
    if return_final:
        final = torch.empty(made.call.state_shape, dtype=result, device=x.device)
    # What is empty still has offsets, which may lie: the CPU's kernels see to that.
    if empty and (cuda or starts is None):
        if final is not None:
            final.zero_() if h0 is None else final.copy_(h0)
    elif cuda:
        tensors = (a, x, h, h0, final, reset, offsets)
        launch(made.native, dict(zip((*FORWARD, *STARTS), tensors, strict=True)))
    else:
        pointers = _pack(
            a.data_ptr(),
            x.data_ptr(),
            h.data_ptr(),
            0 if h0 is None else h0.data_ptr(),
            0 if final is None else final.data_ptr(),
        )
        if starts is not None:
            pointers += _BETWEEN + _pack_starts(
                0 if reset is None else reset.data_ptr(),
                0 if offsets is None else offsets.data_ptr(),
            )
        if status := _native_run(made.native, pointers):
            native.check(status)
    return h, final


def run(problem: native.NativeProblem, tensors: Mapping[str, Tensor | None]) -> None:
    """Run a problem on tensors by role, None for what is absent."""
    first = tensors["a"]
    assert first is not None
    if first.is_cuda:
        launch(problem, tensors)
    else:
        pointers = {role: t.data_ptr() for role, t in tensors.items() if t is not None}
        native.run(problem, native.pack(pointers))


def backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    axis: int,
    reverse: bool,
    x_dtype: torch.dtype,
    reset: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the fused backward kernel on tensors of one device that hold plain values."""
    if h.is_cuda:
        given = grad_h, grad_final, a, h, h0, offsets
        grad_h, grad_final, a, h, h0, offsets = map(aligned, given)
    grad_a, grad_x, grad_h0 = empty_grads(a, h, h0, x_dtype)
    if h.numel() == 0 and (h.is_cuda or offsets is None):
        grad_a.zero_()
        if h0 is not None:
            grad_h0.zero_() if grad_final is None else grad_h0.copy_(
                cast(grad_final, grad_h0.dtype)
            )
        return grad_a, grad_x, grad_h0
    target = None if h0 is None else grad_h0
    operands = (a, h, h0, grad_h, grad_final, grad_a, grad_x, target)
    tensors = dict(zip((*BACKWARD, *STARTS), (*operands, reset, offsets), strict=True))
    signatures = tuple((role, signature(t)) for role, t in tensors.items() if t is not None)
    place = target_of(h) if h.is_cuda else gpu.CPU
    problem = backward_plan(signatures, axis, reverse, torch.get_num_threads(), place).native
    run(problem, tensors)
    return grad_a, grad_x, grad_h0


def backward_layouts(
    a: Signature,
    h: Signature,
    h0: Signature | None,
    x_dtype: torch.dtype,
    starts: Starts,
) -> tuple[tuple[str, Signature], ...]:
    """What `backward` is given and allocates for operands like these, where grad_h is laid out as `h`."""
    h_like = _meta(h)
    state = None if h0 is None else _meta(h0)
    grads = empty_grads(_meta(a), h_like, state, x_dtype)
    named = {"a": a, "h": h, "h0": h0, "grad_h": h}
    named |= dict(zip(("grad_a", "grad_x"), map(signature, grads[:2]), strict=True))
    named["grad_h0"] = None if h0 is None else signature(grads[2])
    named |= dict(zip(STARTS, starts, strict=True))
    roles = (*BACKWARD, *STARTS)
    return tuple((role, value) for role in roles if (value := named.get(role)) is not None)


#: Parts of a sum to one number; where each has so few elements, torch makes the sum on one thread.
PARTS = 64


def sum_to(gradient: Tensor, shape: Shape) -> Tensor:
    """The sum over the axes along which `shape` was repeated, in float32 at least and in one order; differentiable.

    torch cuts its sum of very many elements to a single number into as many parts as there are threads, so that the
    last bits depend on their number. Such a sum is made in two stages here; torch gives each output of the first to
    one thread.
    """
    count = gradient.numel()
    if torch.compiler.is_compiling() or type(count) is not int:
        return gradient.sum_to_size(shape)
    if gradient.shape == shape:
        return gradient
    wide = promote(gradient.dtype, torch.float32)
    if not gradient.is_cpu or count <= PARTS**2 or any(length != 1 for length in shape):
        axes = reduced_axes(tuple(shape), tuple(gradient.shape))
        return gradient.sum(axes, dtype=wide).reshape(shape)
    flat, rest = gradient.reshape(-1), count % PARTS
    parts = flat[: count - rest].unflatten(0, (PARTS, -1)).sum(1, dtype=wide)
    return (parts.sum() + flat[count - rest :].sum(dtype=wide)).reshape(shape)


def cast(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient in the dtype of what it belongs to; the real part where that is real."""
    return (gradient.real if gradient.is_complex() and not dtype.is_complex else gradient).to(dtype)
