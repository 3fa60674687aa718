"""Sequences that start inside the time axis in the CUDA kernels, emulated: every plan, and what no start lets through.

What their operands may be is in test_segments_emulated_operands.py.
"""

from __future__ import annotations

import itertools

import emulated
import numpy as np
import pytest
from capabilities import Backend
from emulated import SMALL
from emulated_segments import EVERYDAY, KINDS, PLANS, check, draw, launch
from matrix import missing
from segment_cases import LIES, results_for

pytestmark = pytest.mark.skipif(
    bool(missing(Backend.EMULATED)), reason=missing(Backend.EMULATED) or "-"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number < EVERYDAY else pytest.mark.slow)
        for number in range(len(PLANS))
    ],
)
def test_every_plan(number: int, kind: str) -> None:
    """Forward and backward, with and without states."""
    way, shape, axis, numbers = PLANS[number]
    with emulated.tuned(**(SMALL | numbers)):
        emulated.schedule(number, 1 + number % 4)
        for backward in (False, True):
            # In rows the other direction is another program.
            for reverse in (False, True) if "rows" not in way or number >= EVERYDAY else (False,):
                for states in (False, True):
                    given = draw(kind, shape, axis, "float32", states=states, backward=backward)
                    check(given, axis, reverse, way)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_passes_a_start(kind: str) -> None:
    """Not even NaN and infinity, in the state before, in the coefficient or in what flows back, by whichever way."""
    for number in range(EVERYDAY):
        way, shape, axis, numbers = PLANS[number]
        length = shape[axis]
        for start in (1, 8, 16, 17, 64, 65, length - 1):
            starts = np.array([0, start, length])
            if kind == "reset":
                starts = np.expand_dims(
                    np.arange(length) == start, [d for d in range(len(shape)) if d != axis]
                )
            with emulated.tuned(**(SMALL | numbers)):
                emulated.schedule(start, 3)
                for backward in (False, True):
                    given = draw(
                        kind, shape, axis, "float32", states=True, backward=backward, starts=starts
                    )
                    clean = check(given, axis, False, way)
                    (spoilt,) = ("grad_h",) if backward else ("x",)
                    for bad in (np.nan, np.inf, 3e38):
                        at = start if backward else start - 1
                        dirty = {name: v.copy() for name, v in given.items()}
                        np.moveaxis(dirty[spoilt], axis, 0)[at] = bad
                        if kind == "reset":
                            np.moveaxis(dirty["a"], axis, 0)[start] = bad
                        found = {name: np.full_like(v, np.nan) for name, v in clean.items()}
                        launch(dirty, found, axis, False, way)
                        for name in ("grad_x", "grad_a") if backward else ("h",):
                            one, other = (np.moveaxis(v[name], axis, 0) for v in (found, clean))
                            kept = slice(None, start) if backward else slice(start, None)
                            np.testing.assert_allclose(one[kept], other[kept], 1e-4, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_schedule_changes_a_bit(kind: str) -> None:
    _, shape, axis, numbers = PLANS[1]
    for backward in (False, True):
        given = draw(kind, shape, axis, "float32", states=True, backward=backward)
        found = []
        for seed, blocks in ((1, 1), (2, 2), (3, 8), (4, 40)):
            results = results_for(given, axis, shape, "float32")
            with emulated.tuned(**(SMALL | numbers)):
                emulated.schedule(seed, blocks)
                launch(given, results, axis, False)
            found.append(b"".join(v.tobytes() for v in results.values()))
        assert len(set(found)) == 1


@pytest.mark.parametrize("number", range(EVERYDAY))
def test_the_final_state_is_the_last_to_the_bit(number: int) -> None:
    """Of each sequence, wherever it ends in a tile; and the first state what its own step makes of h0."""
    _, shape, axis, numbers = PLANS[number]
    given = draw("offsets", shape, axis, "float32", states=True, backward=False)
    results = results_for(given, axis, shape, "float32")
    with emulated.tuned(**(SMALL | numbers)):
        launch(given, results, axis, False)
    h, final = (np.moveaxis(results[name], axis, 0) for name in ("h", "final"))
    h0 = np.moveaxis(given["h0"], axis, 0)
    for number, (start, end) in enumerate(itertools.pairwise(given["offsets"])):
        np.testing.assert_array_equal(final[number], h[end - 1] if end > start else h0[number])


@pytest.mark.parametrize("backward", [False, True])
def test_no_step(backward: bool) -> None:
    """What enters leaves: each segment where there are offsets, all of none where there are none."""
    for segments in (0, 1, 3):
        given = draw(
            "offsets",
            (2, 0, 5),
            1,
            "float32",
            states=True,
            backward=backward,
            starts=np.zeros(segments + 1, np.int64),
        )
        check(given, 1, False)
    given = draw("reset", (2, 0, 5), 1, "float32", states=True, backward=backward)
    check(given, 1, False)


@pytest.mark.parametrize("number", [1, 2])
def test_offsets_that_are_none(number: int) -> None:
    """Whatever they hold, what lies around the results stays as it is, and every step has a result."""
    _, shape, axis, numbers = PLANS[number]
    for lie, values in LIES.items():
        for backward in (False, True):
            for reverse in (False, True):
                starts = np.array(values, np.int64)
                given = draw(
                    "offsets",
                    shape,
                    axis,
                    "float32",
                    states=True,
                    backward=backward,
                    starts=starts,
                )
                plain = results_for(given, axis, shape, "float32")
                memory = {name: np.full(v.size + 64, 7.5, v.dtype) for name, v in plain.items()}
                results = {
                    name: memory[name][32 : 32 + v.size].reshape(v.shape)
                    for name, v in plain.items()
                }
                with emulated.tuned(**(SMALL | numbers)):
                    launch(given, results, axis, reverse)
                for name, around in memory.items():
                    assert np.all(around[:32] == 7.5), (lie, name)
                    assert np.all(around[32 + plain[name].size :] == 7.5), (lie, name)
                for name in ("grad_x", "grad_a") if backward else ("h",):
                    assert not np.any(results[name] == 7.5), (lie, name)
