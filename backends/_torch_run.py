"""libscanlib on torch's tensors: what the results look like, prepared problems, and running them.

Nothing here knows autograd, transforms or compilers; the tensors are plain ones, as `_torch_ops.py` sees to.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.backends._torch_cuda import launch
from scanlib.problem import (
    DTYPES,
    Problem,
    Shape,
    broadcast_strides,
    dtype_code,
    reduced_axes,
    resolve,
    state_strides,
)

#: shape, strides in elements and dtype: all a plan depends on
Signature = tuple[Shape, Shape, torch.dtype]


# ---- outputs, for kernels and for shape inference


def empty_result(a: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty `h`, in the memory order of `x` as pointwise operations keep it, or of `a` where `x` was expanded."""
    for like in (x, a):
        if like.shape == x.shape and all(
            n <= 1 or s != 0 for n, s in zip(like.shape, like.stride(), strict=True)
        ):
            return torch.empty_like(like, dtype=dtype)
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def empty_final(x: Tensor, axis: int, wanted: bool, dtype: torch.dtype) -> Tensor:
    shape = (*x.shape[:axis], *x.shape[axis + 1 :]) if wanted else (0,)
    return torch.empty(shape, dtype=dtype, device=x.device)


def empty_grads(
    a: Tensor, h: Tensor, h0: Tensor | None, x_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    grad_h0 = (
        torch.empty((0,), dtype=h.dtype, device=h.device) if h0 is None else torch.empty_like(h0)
    )
    return torch.empty_like(a), torch.empty_like(h, dtype=x_dtype), grad_h0


# ---- plans: what is worked out once for tensors of the same shapes, strides and dtypes


class Plan(NamedTuple):
    """A prepared forward call and how to allocate its outputs."""

    native: native.NativeProblem
    address: int
    resolved: Problem
    dtype: torch.dtype
    strides: Shape
    like_x: bool  # `empty_like(x)` makes `h`, which is quicker than by strides
    empty: bool


def signature(tensor: Tensor) -> Signature:
    return tensor.shape, tensor.stride(), tensor.dtype


def _operand(
    name: str, given: Signature, target: Problem, *, state: bool = False
) -> native.Operand:
    shape, strides, dtype = tuple(given[0]), tuple(given[1]), given[2]
    code = dtype_code(dtype_name(dtype), name)
    return code, state_strides(shape, strides, target) if state else broadcast_strides(
        shape, strides, target.shape
    )


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# All pairs, worked out ahead: torch.export would put a call of torch.promote_types into the graph.
_FLOATING = [getattr(torch, name) for name in DTYPES]
_PROMOTED = {(p, q): torch.promote_types(p, q) for p in _FLOATING for q in _FLOATING}


def promote(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """`torch.promote_types` for the dtypes of `scanlib.problem.DTYPES`."""
    return _PROMOTED[first, second]


def _meta(given: Signature) -> Tensor:
    return torch.empty_strided(given[0], given[1], dtype=given[2], device="meta")


#: The complex dtype of a real one. (Methods of torch.dtype that give it are closed to torch.compile.)
COMPLEX = {
    torch.float16: torch.complex32,
    torch.bfloat16: torch.complex64,
    torch.float32: torch.complex64,
    torch.float64: torch.complex128,
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
) -> Plan:
    a, x = (a_shape, a_strides, a_dtype), (x_shape, x_strides, x_dtype)
    resolved = resolve(tuple(a_shape), tuple(x_shape), None if h0 is None else tuple(h0[0]), axis)
    operands = {"a": _operand("a", a, resolved), "x": _operand("x", x, resolved)}
    if h0 is not None:
        operands["h0"] = _operand("h0", h0, resolved, state=True)
    if dtype is None:
        dtype = result_dtype(
            [(given[2], len(given[0])) for given in (a, x, h0) if given is not None]
        )
    dtype_code(dtype_name(dtype), "the result")
    strides = out_strides
    if strides is None:
        strides = empty_result(_meta(a), _meta(x).expand(resolved.shape), dtype).stride()
    operands["h"] = _operand("the result", (resolved.shape, strides, dtype), resolved)
    if return_final:
        final = torch.empty(resolved.state_shape, device="meta").stride()
        operands["final"] = _operand(
            "the result", (resolved.state_shape, final, dtype), resolved, state=True
        )
    problem = native.prepare(
        resolved.shape, resolved.axis, operands, reverse=reverse, threads=threads, openmp=True
    )
    like_x = (
        resolved.shape == x_shape and strides == torch.empty_like(_meta(x), dtype=dtype).stride()
    )
    return Plan(problem, problem.address, resolved, dtype, strides, like_x, 0 in resolved.shape)


@functools.lru_cache(maxsize=1024)
def _backward_problem(
    given: tuple[tuple[str, Signature], ...], axis: int, reverse: bool, threads: int
) -> native.NativeProblem:
    signatures = dict(given)
    resolved = resolve(tuple(signatures["a"][0]), tuple(signatures["h"][0]), None, axis)
    states = ("h0", "grad_final", "grad_h0")
    operands = {
        role: _operand(role, value, resolved, state=role in states) for role, value in given
    }
    return native.prepare(
        resolved.shape,
        resolved.axis,
        operands,
        reverse=reverse,
        conjugate=True,
        threads=threads,
        openmp=True,
    )


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

_ROLES = ("a", "h", "h0", "grad_h", "grad_final", "grad_a", "grad_x", "grad_h0")
_native_forward = native.library().scanlib_cpu_forward


def forward(
    a: Tensor,
    x: Tensor,
    h0: Tensor | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the forward kernel on tensors of one device that hold plain values (no conjugate or negative bit)."""
    try:
        # fmt: off
        plan = forward_plan(a.shape, a.stride(), a.dtype, x.shape, x.stride(), x.dtype,
                            None if h0 is None else signature(h0), axis, reverse, return_final,
                            torch.get_num_threads(), dtype, None if out is None else out.stride())
        # fmt: on
        if out is not None:
            h = out
        elif plan.like_x:
            h = (
                torch.empty_like(x)
                if x.dtype is plan.dtype
                else torch.empty_like(x, dtype=plan.dtype)
            )
        else:
            h = torch.empty_strided(
                plan.resolved.shape, plan.strides, dtype=plan.dtype, device=x.device
            )
        final = (
            torch.empty(plan.resolved.state_shape, dtype=plan.dtype, device=x.device)
            if return_final
            else None
        )
        if plan.empty:
            if final is not None:
                final.zero_() if h0 is None else final.copy_(h0)
            return h, final
        if h.is_cuda:
            launch(gpu.forward, plan.native, a, x, h0, h, final)
            return h, final
        status = _native_forward(
            plan.address,
            a.data_ptr(),
            x.data_ptr(),
            None if h0 is None else h0.data_ptr(),
            h.data_ptr(),
            None if final is None else final.data_ptr(),
        )
        if status:
            native.check(status)
        return h, final
    except (native.RankError, native.AlignmentError):
        resolved = resolve(
            tuple(a.shape), tuple(x.shape), None if h0 is None else tuple(h0.shape), axis
        )
        if dtype is None:
            dtype = result_dtype([(t.dtype, t.ndim) for t in (a, x, h0) if t is not None])
        a, x, h0 = copy(a, resolved.shape), copy(x, resolved.shape), copy(h0, resolved.state_shape)
        h, final = forward(a, x, h0, axis, reverse, return_final, dtype)
        return h if out is None else out.copy_(h), final


def backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    axis: int,
    reverse: bool,
    x_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the fused backward kernel on tensors of one device that hold plain values."""
    grad_a, grad_x, grad_h0 = empty_grads(a, h, h0, x_dtype)
    if h.numel() == 0:
        grad_a.zero_()
        if h0 is not None:
            grad_h0.zero_() if grad_final is None else grad_h0.copy_(
                _project(grad_final, grad_h0.dtype)
            )
        return grad_a, grad_x, grad_h0
    tensors = (a, h, h0, grad_h, grad_final, grad_a, grad_x, None if h0 is None else grad_h0)
    try:
        given = tuple(
            (role, signature(t)) for role, t in zip(_ROLES, tensors, strict=True) if t is not None
        )
        problem = _backward_problem(given, axis, reverse, torch.get_num_threads())
        if h.is_cuda:
            launch(gpu.backward, problem, *tensors)
        else:
            native.backward(
                problem, *(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
            )
        return grad_a, grad_x, grad_h0
    except (native.RankError, native.AlignmentError):
        state_shape = h.select(axis, 0).shape
        wide_a = a if a.shape == h.shape else a.to(promote(a.dtype, torch.float32))
        grad_a, grad_x, grad_h0 = backward(
            copy(grad_h, h.shape),
            copy(grad_final, state_shape),
            copy(wide_a, h.shape),
            copy(h, h.shape),
            copy(h0, state_shape),
            axis,
            reverse,
            x_dtype,
        )
        return sum_to(grad_a, a.shape).to(a.dtype), grad_x, grad_h0


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


def copy(tensor: Any, shape: Shape) -> Any:
    """A contiguous copy at full size, for strides or an address that libscanlib does not take; None stays None."""
    return (
        None
        if tensor is None
        else tensor.expand(shape).clone(memory_format=torch.contiguous_format)
    )


def _project(grad: Tensor, dtype: torch.dtype) -> Tensor:
    return (grad.real if grad.is_complex() and not dtype.is_complex else grad).to(dtype)
