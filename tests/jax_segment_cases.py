"""Shapes, resets and offsets for the tests of JAX of sequences that start inside the time axis, and each alone."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, rng_for
from jax import lax
from jax_cases import PURE, Function, scan, serial, weighted

Shape = tuple[int, ...]


class Case(NamedTuple):
    """Shapes of a, x and h0 (None: not given), a shape of a reset or the ends of segments, and the time axis."""

    a: Shape
    x: Shape
    h0: Shape | None
    reset: Shape | None = None
    ends: tuple[int, ...] | None = None
    axis: int = 0

    def args(self, dtype: str = "float64") -> list[Any]:
        """a, x, h0 and, where sequences start by a reset, that."""
        rng = rng_for(self, dtype)
        shapes = (self.a, self.x, self.h0)
        given = [None if s is None else jnp.asarray(normal(rng, s, dtype)) for s in shapes]
        if self.reset is not None:
            reset = np.asarray(rng.random(self.reset) < 0.3)
            if reset.size > 1:  # in both directions the first step of some
                reset.flat[0] = reset.flat[-1] = True
            given.append(jnp.asarray(reset))
        return given

    def run(self, *args: Any, reverse: bool = False, pure: bool = False) -> Any:
        """Both outputs."""
        a, x, h0, *reset = args
        starts = {"reset": reset[0]} if reset else {"offsets": list(self.ends or ())}
        options = {"axis": self.axis, "reverse": reverse, "return_final": True, "pure": pure}
        return scan(a, x, h0, **starts, **options)

    def alone(self, *args: Any, reverse: bool = False) -> Any:
        """The same of each sequence alone, by jax.lax.scan."""
        a, x, h0, *reset = args
        shape = jnp.broadcast_shapes(a.shape, x.shape)
        axis = self.axis % len(shape)
        if reset:
            return with_reset(a, x, h0, reset[0], axis, reverse)
        a, x = (jnp.moveaxis(jnp.broadcast_to(v, shape), axis, 0) for v in (a, x))
        ends = self.ends or ()
        states = None
        if h0 is not None:
            full = (*shape[:axis], len(ends) - 1, *shape[axis + 1 :])
            states = jnp.moveaxis(jnp.broadcast_to(h0, full), axis, 0)
        found = [
            serial(a[i:j], x[i:j], None if states is None else states[n], reverse=reverse)
            for n, (i, j) in enumerate(itertools.pairwise(ends))
        ]
        h = jnp.concatenate([h for h, _ in found]) if found else x
        final = jnp.stack([final for _, final in found]) if found else x
        return jnp.moveaxis(h, 0, axis), jnp.moveaxis(final, 0, axis)


def with_reset(a: Any, x: Any, h0: Any, reset: Any, axis: int, reverse: bool) -> tuple[Any, Any]:
    shape = jnp.broadcast_shapes(a.shape, x.shape)
    a, x, reset = (jnp.moveaxis(jnp.broadcast_to(v, shape), axis, 0) for v in (a, x, reset))
    start = jnp.broadcast_to(0.0 if h0 is None else h0, x.shape[1:]).astype(x.dtype)

    def step(h: Any, now: Any) -> Any:
        a, x, starts = now
        h = jnp.where(starts, x, a * h + x)
        return h, h

    final, h = lax.scan(step, start, (a, x, reset), reverse=reverse)
    return jnp.moveaxis(h, 0, axis), final


CASES = {
    "reset": Case((2, 12, 3), (2, 12, 3), (2, 3), reset=(2, 12, 1), axis=1),
    "reset-long": Case((2, 40, 3), (2, 40, 3), (2, 3), reset=(2, 40, 1), axis=1),
    "reset-of-channels": Case((3,), (2, 40, 3), None, reset=(40, 3), axis=1),
    "reset-of-all-steps": Case((5, 1), (5, 2), (2,), reset=()),
    "reset-scalar-a": Case((), (5, 3), (), reset=(5, 1)),
    "reset-x-broadcast": Case((40, 2, 3), (40, 1, 1), (2, 1), reset=(40, 1, 1)),
    "reset-one-step": Case((2, 1), (2, 1), (2,), reset=(1,), axis=-1),
    "reset-no-steps": Case((0, 3), (0, 3), (3,), reset=(1, 1)),
    "offsets": Case((2, 12, 3), (2, 12, 3), (2, 5, 3), ends=(0, 0, 3, 10, 12, 12), axis=1),
    "offsets-long": Case((2, 40, 3), (2, 40, 3), (2, 5, 3), ends=(0, 0, 3, 30, 40, 40), axis=1),
    "offsets-vector": Case((7,), (7,), (4,), ends=(0, 2, 2, 3, 7)),
    "offsets-no-h0": Case((40, 1), (40, 3), None, ends=(0, 1, 1, 1, 33, 40)),
    "offsets-shared-h0": Case((3,), (2, 6, 3), (1, 3), ends=(0, 4, 4, 6), axis=1),
    "offsets-scalar-a": Case((), (3, 6), (2,), ends=(0, 5, 6), axis=-1),
    "offsets-one": Case((2, 6), (2, 6), (2, 1), ends=(0, 6), axis=1),
    "offsets-one-step": Case((1, 2), (1, 2), (3, 2), ends=(0, 0, 1, 1)),
    "offsets-no-steps": Case((0, 2), (0, 2), (2, 2), ends=(0, 0, 0)),
    "offsets-none": Case((0, 2), (0, 2), (0, 2), ends=(0,)),
}
#: Those that stand for all others; longer ones the path in JAX operations cuts into chunks.
SHORT, LONG = ("reset", "offsets"), ("reset-long", "offsets-long")
both = pytest.mark.parametrize("case", [CASES[name] for name in SHORT], ids=SHORT)
both_long = pytest.mark.parametrize("case", [CASES[name] for name in LONG], ids=LONG)
pures = pytest.mark.parametrize("pure", PURE)


def wanted(args: list[Any]) -> tuple[int, ...]:
    return tuple(i for i, arg in enumerate(args[:3]) if arg is not None)


def gradient(function: Function, args: Any) -> Any:
    return jax.grad(weighted(function), wanted(args))(*args)
