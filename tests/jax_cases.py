"""Arrays, shapes and functions for the tests of JAX, and the recurrence by jax.lax.scan to compare with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, rng_for
from jax import lax
from matrix import Jax

from scanlib.backends import jax as adapter
from scanlib.backends.jax import lowering as jax_lowering

Function = Callable[..., Any]
PURE = [pytest.param(False, id="native"), pytest.param(True, id="pure")]
#: shapes of a, x, h0 (None: not given) that broadcast in every way, and the time axis of the result
CASES = [
    pytest.param((5,), (5,), None, 0, id="vector"),
    pytest.param((2, 4, 3), (2, 4, 3), (2, 3), 1, id="full"),
    pytest.param((3,), (2, 4, 3), (1, 3), 1, id="channel-a"),
    pytest.param((4, 1), (2, 4, 3), (3,), 1, id="time-a"),
    pytest.param((2, 4, 3), (4, 1), None, 1, id="x-broadcast"),
    pytest.param((2, 1, 1), (1, 4, 3), (2, 1), 1, id="both-broadcast"),
    pytest.param((), (4, 3), (), 0, id="scalar-a"),
    pytest.param((4, 1), (4, 1), None, 0, id="one-channel"),
    pytest.param((2, 3, 1), (2, 3, 1), (2, 3), -1, id="one-step"),
    pytest.param((2, 0, 3), (2, 0, 3), (2, 3), 1, id="no-steps"),
    pytest.param((1, 0, 3), (2, 0, 3), None, 1, id="no-steps-no-h0"),
    pytest.param((0, 4), (0, 4), (0,), 1, id="no-sequences"),
]


@pytest.fixture(autouse=True)
def handlers() -> None:
    """A libscanlib without XLA handlers would have most tests test the pure path twice."""
    assert not jax_lowering.missing("cpu")


class PureJax(Jax):
    """The matrix's JAX member on the path of other platforms."""

    def scan(self, a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        return scan(a, x, h0, pure=True, **options)


def scan(
    a: Any, x: Any, h0: Any = None, *, axis: int | None = None, pure: bool = False, **options: Any
) -> Any:
    flags = (options.get("reverse", False), options.get("return_final", False), None)
    starts = options.get("reset"), options.get("offsets")
    return adapter.linear_recurrence(a, x, h0, axis, *flags, *starts, pure=pure)


def serial(
    a: Any, x: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False
) -> tuple[Any, Any]:
    """h and the final state by jax.lax.scan, which JAX differentiates by itself."""
    shape = jnp.broadcast_shapes(a.shape, x.shape)
    axis %= len(shape)
    a, x = (jnp.moveaxis(jnp.broadcast_to(v, shape), axis, 0) for v in (a, x))
    dtype = jnp.result_type(a, x)
    start = (
        jnp.zeros(x.shape[1:], dtype)
        if h0 is None
        else jnp.broadcast_to(h0, x.shape[1:]).astype(dtype)
    )

    def step(h: Any, ax: Any) -> Any:
        h = ax[0] * h + ax[1]
        return h, h

    final, h = lax.scan(step, start, (a, x), reverse=reverse)
    return jnp.moveaxis(h, 0, axis), final


def inputs(a: Any, x: Any, h0: Any, dtype: str = "float64") -> list[Any]:
    rng = rng_for(a, x, h0, dtype)
    values = [None if s is None else normal(rng, s, dtype) for s in (a, x, h0)]
    return [None if v is None else jnp.asarray(v) for v in values]


def weighted(run: Function) -> Function:
    """A scalar in which every element of h and of the final state has a weight of its own, non-linearly."""

    def loss(*args: Any) -> Any:
        h, final = run(*args)
        weights = jnp.arange(1.0, 1 + h.size).reshape(h.shape) / (1 + h.size)
        last = jnp.arange(2.0, 2 + final.size).reshape(final.shape) / (2 + final.size)
        total = (weights * (h + h**2)).sum() + (last * final**3).sum()
        return total.real if jnp.iscomplexobj(total) else total

    return loss


def both_outputs(axis: int, reverse: bool = False, pure: bool = False) -> Function:
    return functools.partial(scan, axis=axis, reverse=reverse, return_final=True, pure=pure)


def custom_calls(function: Function, *args: Any) -> list[str]:
    """The lines of a program that call libscanlib."""
    text = jax.jit(function).lower(*args).as_text()
    return [line for line in text.splitlines() if "custom_call @scanlib" in line]


def assert_trees_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )
