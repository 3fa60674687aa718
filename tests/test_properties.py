"""What holds for any input, with inputs drawn by hypothesis; a failing one is shrunk and printed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import assert_close, check_forward, check_gradients, decay, normal, same_bits
from matrix import Member
from oracle import recurrence, wide

import scanlib

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings(max_examples=150)
DTYPES = st.sampled_from(["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    """Shapes that broadcast, an axis, dtypes, a direction, h0 or none, and the views they come as."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    T = draw(st.one_of(st.integers(0, 9), st.sampled_from([31, 32, 33, 64, 65, 100, 257])))
    shape = (*shape[:axis], T, *shape[axis + 1 :])
    dtype = draw(DTYPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def shrink(target: tuple[int, ...]) -> tuple[int, ...]:
        kept = tuple(n if draw(st.booleans()) else 1 for n in target)
        return kept[draw(st.integers(0, len(kept))) :] if set(kept) <= {1} else kept

    def view(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The same values, seen through strides drawn at random."""
        steps = [draw(st.sampled_from([1, 1, 2, -1, 3])) for _ in values.shape]
        order = draw(st.permutations(range(values.ndim)))
        roomy = np.zeros([values.shape[d] * abs(steps[d]) for d in order], values.dtype)
        seen = roomy.transpose(np.argsort(order))[(*(slice(None, None, s) for s in steps), ...)]
        seen[...] = values
        return seen

    a_shape, x_shape = (shape, shape)
    if draw(st.booleans()):
        a_shape = shrink(shape)
    elif draw(st.booleans()):
        x_shape = shrink(shape)
    state = (*shape[:axis], *shape[axis + 1 :])
    h0 = view(normal(rng, shrink(state), dtype)) if draw(st.booleans()) else None
    return {
        "a": view(decay(rng, a_shape, dtype)),
        "x": view(normal(rng, x_shape, dtype)),
        "h0": h0,
        "axis": axis - draw(st.sampled_from([0, len(shape)])),
        "reverse": draw(st.booleans()),
    }


@PROFILE
@given(problem=problems())
def test_forward_is_the_oracles(numpy: Member, problem: dict[str, Any]) -> None:
    check_forward(numpy, **problem)


@PROFILE
@given(problem=problems(), final=st.booleans())
def test_gradients_are_the_oracles(numpy: Member, problem: dict[str, Any], final: bool) -> None:
    axis = problem["axis"] % max(problem["a"].ndim, problem["x"].ndim)
    check_gradients(numpy, **{**problem, "axis": axis}, final=final)


@PROFILE
@given(problem=problems(), cut=st.floats(0, 1))
def test_chaining_agrees(problem: dict[str, Any], cut: float) -> None:
    """Cutting time anywhere and passing the state on, in the direction of the scan, changes nothing beyond rounding."""
    ndim = max(problem["a"].ndim, problem["x"].ndim)
    axis, reverse = problem["axis"] % ndim, problem["reverse"]
    a, x = (v[(None,) * (ndim - v.ndim)] for v in (problem["a"], problem["x"]))
    h0 = problem["h0"]
    T = np.broadcast_shapes(a.shape, x.shape)[axis]
    k = round(cut * T)

    def part(v: Any, low: int, high: int) -> Any:
        if v.shape[axis] != T:
            return v  # repeated over time
        return v[(slice(None),) * axis + (slice(low, high),)]

    def run(state: Any, low: int = 0, high: int = T) -> Any:
        given = part(a, low, high), part(x, low, high), state
        return scanlib.linear_recurrence(*given, axis=axis, reverse=reverse, return_final=True)

    whole, last = run(h0)
    if reverse:
        rest, state = run(h0, k, T)
        first, end = run(state, 0, k)
    else:
        first, state = run(h0, 0, k)
        rest, end = run(state, k, T)
    absolute = [None if v is None else np.abs(v.astype(wide(v))) for v in (a, x, h0)]
    scale = recurrence(*absolute, axis=axis, reverse=reverse)  # type: ignore[arg-type]
    name = whole.dtype.name
    chained = np.concatenate([first, rest], axis)
    assert_close(chained, whole.astype(wide(whole)), 2 * scale[0], name)
    assert_close(end, last.astype(wide(last)), 2 * scale[1], name)


@PROFILE
@given(problem=problems())
def test_inputs_stay_and_runs_agree(problem: dict[str, Any]) -> None:
    before = {name: v.tobytes() for name, v in problem.items() if isinstance(v, np.ndarray)}
    first, second = (scanlib.linear_recurrence(**problem) for _ in range(2))
    assert same_bits(first, second)
    assert before == {name: problem[name].tobytes() for name in before}


@PROFILE
@given(problem=problems())
def test_explain_never_fails_where_the_call_does_not(problem: dict[str, Any]) -> None:
    explanation = scanlib.explain(**problem)
    assert explanation.library == "numpy"
    assert explanation.kernel
