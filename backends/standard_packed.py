"""Sequences of different lengths for `scanlib.backends.standard`: one loop after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from scanlib.backends.standard_arguments import Arguments, numbers_of
from scanlib.backends.standard_loop import backward, cast, forward
from scanlib.call import Call, call_of
from scanlib.roles import INITIAL


def packed_forward(given: Arguments, call: Call, reverse: bool, offsets: Any) -> tuple[Any, Any]:
    """One sequence after the other."""
    xp, axis, hs, finals = given.xp, call.axis - len(call.shape), [], []
    for part, one in _parts(given, call, offsets):
        h, final = forward(part, one, reverse)
        hs.append(h)
        finals.append(final)
    if not hs:
        empty = xp.zeros(call.shape, dtype=given.result, device=given.device)
        return empty, xp.zeros(call.state_shape, dtype=given.result, device=given.device)
    return xp.concat(hs, axis=axis), xp.stack(finals, axis=call.axis)


def packed_backward(
    given: Arguments, call: Call, reverse: bool, offsets: Any
) -> tuple[Any, Any, Any]:
    xp, arrays, axis = given.xp, given.arrays, call.axis - len(call.shape)
    found = [backward(part, one, reverse) for part, one in _parts(given, call, offsets)]
    grads_a, grads_x, grads_initial = zip(*found, strict=True) if found else ((), (), ())

    def joined(grads: Any, like: Any, whole: bool) -> Any:
        """The gradients of all sequences: beside one another where each has its own elements, else their sum."""
        if not grads:
            return xp.zeros_like(like)
        if whole:
            return xp.concat(grads, axis=axis)
        total = xp.sum(xp.stack([cast(xp, g, given.wide) for g in grads]), axis=0)
        return cast(xp, xp.reshape(total, like.shape), like.dtype)

    a, initial = arrays["a"], arrays[INITIAL]
    own = a.ndim >= -axis and a.shape[axis] == call.shape[call.axis] and a.shape[axis] != 1
    grad_a = joined(grads_a, a, own or (a.ndim >= -axis and len(found) == 1))
    grad_x = joined(grads_x, arrays["grad_h"], True)
    if initial is None:
        return grad_a, grad_x, None
    if initial.ndim >= -axis and initial.shape[axis] == call.segments and found:
        return grad_a, grad_x, xp.stack(grads_initial, axis=initial.ndim + axis)
    return grad_a, grad_x, joined(grads_initial, initial, False)


def _parts(given: Arguments, call: Call, offsets: Any) -> Iterator[tuple[Arguments, Call]]:
    """Each sequence, as a call of its own."""
    axis = call.axis - len(call.shape)
    numbers = numbers_of(offsets, call.shape[call.axis])
    for i, (start, stop) in enumerate(itertools.pairwise(numbers)):
        shape = (*call.shape[: call.axis], stop - start, *call.shape[call.axis + 1 :])
        yield given.part(axis, start, stop, i), call_of(shape, call.axis)
