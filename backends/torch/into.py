"""Results written into a tensor of the caller's: `out`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from scanlib.backends.torch.arguments import State, check_operands
from scanlib.backends.torch.autograd import derivatives_wanted, scan
from scanlib.backends.torch.dtypes import dtype_name
from scanlib.backends.torch.ops import is_plain_call
from scanlib.backends.torch.run import forward
from scanlib.backends.torch.sums import spread, spread_state
from scanlib.call import Call
from scanlib.errors import OutputError
from scanlib.overlap import Memory, check_out, check_out_type
from scanlib.roles import INITIAL, STARTS

_compiling = torch.compiler.is_dynamo_compiling


def into(
    out: Tensor,
    operands: tuple[Any, Any, Any],
    a: Tensor,
    x: Tensor,
    initial: State,
    dtype: torch.dtype,
    call: Call,
    reverse: bool,
    return_final: bool,
    reset: State,
    offsets: State,
) -> Tensor | tuple[Tensor, Tensor]:
    check_operands({"out": out, "x": x})
    if torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (*operands, out)
    ):
        raise OutputError(
            f"out cannot be used where autograd records: a, x, {INITIAL} or out requires grad. Call without out, or "
            "under torch.no_grad()."
        )
    if not _compiling() and derivatives_wanted(out):
        raise OutputError(
            "out cannot be used inside torch.func transforms or forward-mode AD. Call without it."
        )
    given = *operands, reset, offsets
    watched = _compiling() or not is_plain_call(a, x, initial, out, reset, offsets)
    if not watched or (not _compiling() and all(type(t) in _PLAIN for t in (*given, out))):
        named = zip(("a", "x", INITIAL, *STARTS), given, strict=True)
        memory = {role: _memory(t) for role, t in named if isinstance(t, Tensor)}
        check_out(_memory(out), call.shape, dtype_name(dtype), memory)
    else:  # a compiler's tensors have no memory; the result is made elsewhere and copied
        check_out_type(tuple(out.shape), dtype_name(out.dtype), call.shape, dtype_name(dtype))
    final: Tensor | None
    if watched:
        x, initial = spread(x, call.shape), spread_state(initial, call.state_shape)
        h, final = scan(a, x, initial, call.axis, reverse, return_final, dtype, reset, offsets)
        out.copy_(h)
    else:
        _, final = forward(
            a, x, initial, call.axis, reverse, return_final, dtype, out, reset, offsets
        )
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
