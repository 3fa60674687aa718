"""torch's dtypes: their names here, and how they are promoted."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from scanlib.call import DTYPES


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# All pairs, worked out ahead: torch.export would put a call of torch.promote_types into the graph.
_FLOATING = [getattr(torch, name) for name in DTYPES]
_PROMOTED = {(p, q): torch.promote_types(p, q) for p in _FLOATING for q in _FLOATING}


def promote(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """`torch.promote_types` for the dtypes of `scanlib.call.DTYPES`."""
    return _PROMOTED[first, second]


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


def cast(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient in the dtype of what it belongs to; the real part where that is real."""
    return (gradient.real if gradient.is_complex() and not dtype.is_complex else gradient).to(dtype)
