"""Sequences that start inside the time axis, in JAX: each is what it is alone, and nothing passes from one to another.

Derivatives are in test_jax_segments_autodiff.py, sharded ones in test_jax_sharding_segments.py.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from helpers import rng_for

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    Function,
    assert_trees_close,
    handlers,  # noqa: F401, a fixture of every test
    scan,
    weighted,
)
from jax_segment_cases import CASES, LONG, SHORT, Case, both, both_long, gradient, pures, wanted  # noqa: E402

from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import pure as jax_pure  # noqa: E402

# ---- values and first gradients


@pytest.mark.parametrize(
    ("name", "pure"),
    [
        pytest.param(name, pure, marks=[pytest.mark.slow] if pure and name not in LONG else [])
        for name, pure in itertools.product(CASES, (False, True))
    ],
)
def test_each_sequence_is_what_it_is_alone(name: str, pure: bool) -> None:
    """Both outputs, and the gradients of both in a, x and h0."""
    case = CASES[name]
    args = case.args()
    for reverse in (False, True) if name in (*SHORT, *LONG) else (pure,):
        run = functools.partial(case.run, reverse=reverse, pure=pure)
        alone = functools.partial(case.alone, reverse=reverse)
        found, grads = jax.jit(lambda *at, f=run: (f(*at), gradient(f, at)))(*args)
        expected, expected_grads = jax.jit(lambda *at, f=alone: (f(*at), gradient(f, at)))(*args)
        assert_trees_close(found, expected)
        assert_trees_close(grads, expected_grads)
        for grad, i in zip(grads, wanted(args), strict=True):
            assert (grad.shape, grad.dtype) == (args[i].shape, args[i].dtype)


@pytest.mark.parametrize(
    ("dtype", "pure"),
    [
        pytest.param(dtype, pure, marks=[] if (dtype, pure) in everyday else [pytest.mark.slow])
        for everyday in [{("bfloat16", False), ("bfloat16", True), ("complex64", False)}]
        for dtype, pure in itertools.product(("float16", "bfloat16", "complex64"), (False, True))
    ],
)
@both
def test_dtypes(case: Case, dtype: str, pure: bool) -> None:
    """Computed as wide as without, and of the same dtype: what says where sequences start has no say in it."""
    args = case._replace(a=(3,)).args(dtype)
    wide = [
        v if v.dtype == bool else v.astype("complex128" if dtype == "complex64" else "float64")
        for v in args
    ]
    args[0], wide[0] = args[0] * 0.25, wide[0] * 0.25
    found = jax.jit(functools.partial(case.run, pure=pure))(*args)
    expected = jax.jit(case.alone)(*wide)
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "complex64": 1e-5}[dtype]
    for part, of_wide in zip(found, expected, strict=True):
        assert part.dtype == dtype
        np.testing.assert_allclose(
            part.astype(of_wide.dtype), of_wide, rtol=tolerance, atol=tolerance
        )
    loss = weighted(functools.partial(case.run, pure=pure))
    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*args)
    assert [grad.dtype for grad in grads] == [dtype] * 3
    expected_grads = jax.jit(jax.grad(weighted(case.alone), (0, 1, 2)))(*wide)
    for part, of_wide in zip(grads, expected_grads, strict=True):
        size = np.abs(of_wide).max()
        np.testing.assert_allclose(
            part.astype(of_wide.dtype) / size, of_wide / size, atol=4 * tolerance
        )


# ---- what never crosses


@pures
@both_long
def test_what_is_not_finite_stays_in_its_sequence(case: Case, pure: bool) -> None:
    """NaN and Inf in a, x, h0 and in what comes back; a reset's grad_a is 0 whatever meets there."""
    a, x, h0, *rest = (np.array(arg) for arg in case.args("float32"))
    T = a.shape[1]
    if rest:
        rest[0][:] = (np.arange(T) % 10 == 0).reshape(1, T, 1)
    ends = list(range(0, T + 1, 10)) if rest else list(case.ends or ())
    for reverse in (True,) if pure else (False, True):
        for bad in (np.nan,) if pure else (np.nan, np.inf):
            sick = x.copy()
            sick[:, 12, 0], sick[:, 14, 1] = bad, -bad
            decay = a.copy()
            # A coefficient into a step that resets, and one inside.
            decay[:, 20 if not reverse else 19, 2], decay[:, 13, 2] = bad, bad
            if not rest:
                decay[:, 20 if not reverse else 19, 2] = 0.5
            starts = rest
            if rest and reverse:
                starts = [np.roll(rest[0], -1, 1)]
            args = [jnp.asarray(v) for v in (decay, sick, h0, *starts)]
            run = functools.partial(case.run, reverse=reverse, pure=pure)
            h, final = jax.jit(run)(*args)
            first, last = next((i, j) for i, j in itertools.pairwise(ends) if i <= 13 < j)
            inside = np.zeros(T, bool)
            inside[first:last] = True
            assert np.isfinite(h[:, ~inside]).all()
            assert not np.isfinite(h[:, inside]).all(axis=(0, 1)).any()
            if rest:
                assert np.isfinite(final).all()

            def loss(*at: Any, run: Function = run, bad: float = bad) -> Any:
                h, final = run(*at)
                # What comes back is not finite where h is, and at step 15.
                return (h * jnp.ones(T).at[15].set(bad)[:, None]).sum() + final.sum()

            grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*args)
            for grad in grads[:2]:
                assert np.isfinite(grad[:, ~inside]).all()
            assert not np.isfinite(grads[1][:, inside]).all()
            if rest:
                assert np.isfinite(grads[2]).all()
                assert (np.asarray(grads[0])[np.broadcast_to(starts[0], a.shape)] == 0).all()


def test_grad_a_is_zero_where_both_factors_are_not_finite() -> None:
    """In the sum over what a repeated a meets, too: Inf * 0 is no 0."""
    x = jnp.ones((8, 1)).at[3].set(jnp.inf)
    reset = jnp.zeros((8, 1), bool).at[4].set(True)
    for pure in (False, True):
        for shape in ((8, 1), (1, 1)):
            a = jnp.full(shape, 0.5)
            run = functools.partial(scan, axis=0, pure=pure)
            h = run(a, x, reset=reset)
            grad_h = jnp.zeros((8, 1)).at[4].set(jnp.inf)
            grad_a, grad_x, _ = adapter.linear_recurrence_vjp(
                grad_h, a, h, None, 0, False, None, reset, pure=pure
            )
            assert (grad_a == 0).all()
            assert_trees_close(grad_x, grad_h)
            tangent = jax.jvp(lambda a, x=x, run=run: run(a, x, reset=reset), (a,), (a * jnp.inf,))
            assert not jnp.isnan(tangent[1][4]).any()


# ---- chunks of the path in JAX operations


def test_chunks_forget_what_came_before_a_start() -> None:
    """Of the pure path: no map of a chunk makes NaN of an infinite decay, which would send all to the loop."""
    a = jnp.full((3, 4, 1), 2.0).at[1, 0].set(jnp.inf).at[1, 3].set(jnp.nan)
    starts = jnp.zeros((3, 4, 1), bool).at[1, 3].set(True)
    maps = jax_pure._reduce(a, jnp.ones_like(a), starts, 1, False)
    assert list(np.ravel(maps[3])) == [False, True, False]
    squeezed = [part[:, 0] for part in maps]
    after, last = jax_pure._chain(*squeezed, jnp.full((1, 1), jnp.inf).at[0].set(1.0), 0, False)
    assert list(np.ravel(after)) == [31.0, 1.0, 31.0]
    assert float(last[0, 0]) == 31


@pytest.mark.parametrize("T", [33, 36, pytest.param(529, marks=pytest.mark.slow)])
def test_pure_path_cut_at_any_step(T: int) -> None:
    """Starts at, before and after the ends of chunks, of lengths that leave steps over and that do not."""
    rng = rng_for(T)
    case = Case((T, 1), (T, 2), (2,), reset=(T, 1))
    a, x, h0, _ = case.args()
    run = jax.jit(functools.partial(case.run, pure=True), static_argnames="reverse")
    alone = jax.jit(case.alone, static_argnames="reverse")
    for share in (0.0, 0.05, 0.5, 1.0):
        reset = jnp.asarray(rng.random((T, 1)) < share)
        for reverse in (False, True):
            args = (a, x, h0, reset)
            assert_trees_close(run(*args, reverse=reverse), alone(*args, reverse=reverse))
