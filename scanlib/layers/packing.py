"""Padded batches of sequences of different lengths, run one after the other: nothing is computed for padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanlib.cells.functions import device_of, namespace, within, zeros
from scanlib.dispatch import tracing
from scanlib.errors import DTypeError, ShapeError

Array = Any


class Packing(NamedTuple):
    """How steps of a padded batch lie in a packed array.

    Attributes
    ----------
    taken : integers, shape (S,)
        For each packed step its number among those of the batch, flattened.
    back : integers, shape (batch T,)
        For each step of the flattened batch its number among the packed ones, S for padding.
    offsets : integers, shape (N + 1,)
        Where sequences start among the packed steps; N is the size of the batch, or one more.
    shape : (batch, T) or (T, batch)
    padding : boolean array, shape (S, 1), or None
        Which packed steps are padding, where there are any.
    """

    taken: Array
    back: Array
    offsets: Array
    shape: tuple[int, int]
    padding: Array | None = None

    def pack(self, x: Array) -> Array:
        """(batch, T, m) or (T, batch, m), as `shape`, to (S, m); padding, whatever it holds, as zeros."""
        xp = namespace(x)
        packed = xp.take(xp.reshape(x, (-1, x.shape[-1])), self.taken, axis=0)
        return packed if self.padding is None else xp.where(self.padding, zeros((), x), packed)

    def unpack(self, y: Array) -> Array:
        """(S, n) to the shape of the batch, zeros in the padding."""
        xp = namespace(y)
        padding = zeros((1, y.shape[-1]), y)
        whole = xp.take(xp.concat([y, padding], axis=0), self.back, axis=0)
        return xp.reshape(whole, (*self.shape, y.shape[-1]))

    def states(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """States of the batch as those of the packed sequences, of which the last may be padding."""
        return tuple(map(self._with_padding, arrays))

    def _with_padding(self, state: Array) -> Array:
        if state.shape[0] == self.offsets.shape[0] - 1:
            return state
        return namespace(state).concat([state, zeros((1, *state.shape[1:]), state)], axis=0)


def packing_of(lengths: Any, x: Array, axis: int) -> Packing:
    """That of x (batch, T, m) or (T, batch, m) with time at `axis`; raises where lengths do not fit.

    Lengths that cannot be looked at, as in `jax.jit`, leave the size of the packed array open: it has all steps then,
    padding last, as a sequence of its own. They are taken for 0 where they are less, and for all steps where more.
    """
    if x.ndim != 3 or axis not in (0, 1):
        raise ShapeError(
            f"lengths are for a batch of sequences with three axes, but the input has shape {tuple(x.shape)}."
        )
    batch, steps = x.shape[1 - axis], x.shape[axis]
    known = _known(lengths)
    shape = np.shape(lengths) if known is None else known.shape
    if shape != (batch,):
        raise ShapeError(
            f"lengths has shape {shape}; one length for each of the {batch} sequences is expected."
        )
    xp = namespace(x)
    if known is not None:
        if known.size and (known.dtype.kind not in "iu"):
            raise DTypeError(f"lengths has dtype {known.dtype}; integers are expected.")
        if np.any(known < 0) or np.any(known > steps):
            raise ShapeError(f"lengths are {known.tolist()}, but the input has {steps} steps.")
        number = np.arange(steps)
        there = number < known[:, None]
        offsets = np.concatenate([[0], np.cumsum(known)])
        back = np.where(there, offsets[:-1, None] + number, offsets[-1])
        flat = np.arange(batch * steps).reshape(batch, steps)
        if axis == 0:
            flat, back = flat.reshape(steps, batch).T, back.T
        made = (flat[there], np.ravel(back), offsets)
        taken, back, offsets = (xp.asarray(v.astype(np.int64), device=device_of(x)) for v in made)
        return Packing(taken, back, offsets, tuple(x.shape[:2]))
    if not hasattr(lengths, "shape"):
        lengths = xp.asarray(lengths, device=device_of(x))
    if not xp.isdtype(lengths.dtype, "integral"):
        raise DTypeError(f"lengths has dtype {lengths.dtype}; integers are expected.")
    number = xp.arange(steps, device=device_of(x))
    count = within(xp.astype(lengths, number.dtype, copy=False), steps)
    count = xp.expand_dims(count, axis=1)
    there = xp.broadcast_to(number, (batch, steps)) < count
    ends = xp.cumulative_sum(count[:, 0])
    offsets = xp.concat([zeros((1,), ends), ends, zeros((1,), ends) + batch * steps])
    back = xp.where(there, xp.expand_dims(offsets[:batch], axis=1) + number, batch * steps)
    # Those that are there first, in their order.
    order = xp.argsort(xp.astype(xp.reshape(~there, (-1,)), number.dtype), stable=True)
    if axis == 0:
        order, back = order % steps * batch + order // steps, back.T
    padding = xp.arange(batch * steps, device=device_of(x)) >= offsets[batch]
    shape = tuple(x.shape[:2])
    return Packing(order, xp.reshape(back, (-1,)), offsets, shape, xp.expand_dims(padding, axis=1))


def _known(lengths: Any) -> Any:
    """Lengths as a NumPy array; None where they cannot be looked at."""
    if tracing():
        return None
    cpu = None if isinstance(lengths, np.ndarray) else getattr(lengths, "cpu", None)
    try:
        return np.asarray(lengths if cpu is None else cpu())
    except Exception:  # each library has its own
        if not hasattr(lengths, "shape"):
            raise
        return None
