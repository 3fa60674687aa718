"""libscanlib on torch's tensors: plain ones, of one device, as `ops.py` sees to."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.backends.torch.cuda import aligned, bytes_of, is_aligned, launch, target_of
from scanlib.backends.torch.dtypes import cast
from scanlib.backends.torch.plans import backward_plan, empty_grads, forward_plan, signature
from scanlib.call import Shape
from scanlib.roles import BACKWARD, FORWARD, NAMES, STARTS


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
#: What follows the pointers of a forward pass: none up to those of `STARTS`.
_BETWEEN = struct.pack("P", 0) * (len(NAMES) - len(FORWARD) - len(STARTS))
_pack_starts = struct.Struct(f"{len(STARTS)}P").pack
_NO_STARTS = _BETWEEN + _pack_starts(0, 0)


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
    if cuda and not is_aligned(a, x, h0, out, offsets):
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
        elif cuda:
            pointers += _NO_STARTS
        if cuda:
            launch(made.native, pointers, x)
        elif status := _native_run(made.native, pointers):
            native.check(status)
    return h, final


def run(problem: native.NativeProblem, tensors: Mapping[str, Tensor | None]) -> None:
    """Run a problem on tensors by role, None for what is absent."""
    first = tensors["a"]
    assert first is not None
    pointers = native.pack({role: t.data_ptr() for role, t in tensors.items() if t is not None})
    if first.is_cuda:
        launch(problem, pointers, first)
    else:
        native.run(problem, pointers)


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
