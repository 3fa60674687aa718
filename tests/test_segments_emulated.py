"""Sequences that start inside the time axis in the CUDA kernels, emulated: resets and offsets against a serial loop."""

from __future__ import annotations

import itertools

import emulated
import numpy as np
import pytest
from capabilities import Backend
from emulated import ABREAST, SMALL
from helpers import TOLERANCE, decay, normal, rng_for
from matrix import missing
from segment_cases import LIES, Array, problem_of, results_for, serial

from scanlib import gpu

pytestmark = pytest.mark.skipif(
    bool(missing(Backend.EMULATED)), reason=missing(Backend.EMULATED) or "-"
)

#: (what is said of it, shape, axis, further numbers), as in test_emulated.py; the first three are everyday tests.
PLANS: list[tuple[str, tuple[int, ...], int, dict[str, int]]] = [
    ("look-back over rows", (2, 701), 1, {}),
    ("look-back over columns", (2, 201, 20), 1, {}),
    ("walk over columns", (101, 20), 0, {"enough_groups": 1}),
    ("walk over rows", (5, 403), 1, {"enough_groups": 1}),
    ("walk over columns", (71, 150), 0, {"many_lanes": 100}),
    ("walk over rows", (201, 3), 1, {}),
    ("walk over columns", (9, 3), 0, {}),
    ("look-back over columns", (301, 3), 0, {}),
    ("in 2 groups of up to 64", (101, 128), 0, ABREAST),
]
EVERYDAY = 3
KINDS = ("reset", "offsets")


def offsets_for(length: int, dtype: str = "int64") -> Array:
    """Sequences of a step, of a few, of many tiles, and without any at both ends and in between.

    Some start where tiles do, and of those in the middle there are more than a warp looks at together.
    """
    rng = rng_for("offsets", length)
    cuts = rng.integers(0, length + 1, 9).tolist()
    cuts += [0, 1, length // 3, length // 3, length // 3 + 1, length, length, 16, 64, 64, 128, 192]
    cuts += rng.integers(length // 2, length // 2 + 30, 60).tolist()
    return np.sort([0, *np.minimum(cuts, length), length]).astype(dtype)


def starts_for(kind: str, shape: tuple[int, ...], axis: int, dtype: str = "int64") -> Array:
    """A mask is that of all lanes alike."""
    if kind == "offsets":
        return offsets_for(shape[axis], dtype)
    rng = rng_for("reset", shape)
    alike = tuple(n if d == axis or d < len(shape) - 1 else 1 for d, n in enumerate(shape))
    mask = rng.random(alike) < 0.06
    first = mask.swapaxes(0, axis)[:1]
    first[...] = rng.random(first.shape) < 0.5
    return mask


def draw(
    kind: str,
    shape: tuple[int, ...],
    axis: int,
    dtypes: dict[str, str] | str,
    *,
    states: bool,
    backward: bool,
    a_shape: tuple[int, ...] | None = None,
    starts: Array | None = None,
) -> dict[str, Array]:
    """Operands of a pass. `dtypes`: by role, or of all."""
    starts = starts_for(kind, shape, axis) if starts is None else starts
    rng = rng_for(kind, shape, axis, str(dtypes))
    segments = (len(starts) - 1,) if kind == "offsets" else ()
    state = (*shape[:axis], *segments, *shape[axis + 1 :])

    def dtype(role: str) -> str:
        return dtypes if isinstance(dtypes, str) else dtypes.get(role, dtypes["x"])

    given = {kind: starts, "a": decay(rng, a_shape or shape, dtype("a"))}
    for role in ("h", "grad_h") if backward else ("x",):
        given[role] = normal(rng, shape, dtype(role))
    for role in (("h0", "grad_final") if backward else ("h0",)) if states else ():
        given[role] = normal(rng, state, dtype(role))
    return given


def launch(
    given: dict[str, Array], results: dict[str, Array], axis: int, reverse: bool, way: str = ""
) -> None:
    shape = given["h" if "grad_h" in given else "x"].shape
    emulated.adapter()
    problem, pointers = problem_of(shape, axis, given | results, reverse=reverse)
    said = gpu.describe(problem)
    assert way in said
    wanted = f"{len(given['offsets']) - 1} segments" if "offsets" in given else "with resets"
    assert wanted in said
    address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
    gpu.run(problem, 0, address, pointers)
    del memory


def check(
    given: dict[str, Array],
    axis: int,
    reverse: bool,
    way: str = "",
    dtype: str = "",
    spare: tuple[str, ...] = (),
) -> dict[str, Array]:
    """A pass against the serial loop; a gradient of a repeated `a` is that summed."""
    shape = given["h" if "grad_h" in given else "x"].shape
    results = results_for(given, axis, shape, dtype or str(given["a"].dtype))
    for name in spare:
        del results[name]
    launch(given, results, axis, reverse, way)
    expected = serial(given, axis, reverse, shape)
    sizes = serial(
        {
            name: v if v.dtype.kind in "bi" else np.abs(v.astype(complex))
            for name, v in given.items()
        },
        axis,
        reverse,
        shape,
    )
    for name, found in results.items():
        want, size = expected[name], sizes[name].real
        if name == "grad_a" and found.shape != want.shape:
            along = tuple(d for d, n in enumerate(found.shape) if n != want.shape[d])
            want, size = (each.sum(along, keepdims=True) for each in (want, size))
        bound = 2 * TOLERANCE[str(found.dtype)] * size
        wrong = ~(np.abs(found.astype(complex) - want) <= bound)
        assert not wrong.any(), f"{name}, first at {np.argwhere(wrong)[0]}"
        if name == "grad_a" and "reset" in given and found.shape == shape:
            assert not np.any(found[np.broadcast_to(given["reset"], shape)])
    return results


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


# ---- what takes more programs


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_sums_for_a_repeated_a(kind: str, number: int) -> None:
    """Along time, along sequences, along both; masked steps, and the first of segments without h0, add nothing."""
    _, shape, axis, numbers = PLANS[number]
    along_time = tuple(1 if d == axis else n for d, n in enumerate(shape))
    along_others = tuple(n if d == axis else 1 for d, n in enumerate(shape))
    with emulated.tuned(**(SMALL | numbers)):
        for a_shape in (along_time, along_others, (1,) * len(shape)):
            for states in (False, True):
                given = draw(
                    kind, shape, axis, "float32", states=states, backward=True, a_shape=a_shape
                )
                check(given, axis, bool(number % 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "complex128"])
def test_dtypes(kind: str, dtype: str) -> None:
    for number in (0, 1, 2):
        way, shape, axis, numbers = PLANS[number]
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                given = draw(kind, shape, axis, dtype, states=True, backward=backward)
                check(given, axis, True, way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_that_differ(kind: str) -> None:
    """States are not narrowed to what x or h have, and a mask's or offsets' own size decides nothing."""
    for dtypes, out in (
        ({"a": "float32", "x": "bfloat16", "h0": "float32", "h": "float32"}, "float32"),
        ({"a": "complex64", "x": "float32", "h0": "complex64", "h": "complex64"}, "complex64"),
    ):
        for number in (0, 2):
            way, shape, axis, numbers = PLANS[number]
            with emulated.tuned(**(SMALL | numbers)):
                for backward in (False, True):
                    given = draw(kind, shape, axis, dtypes, states=True, backward=backward)
                    check(given, axis, False, way, out)


@pytest.mark.slow
def test_conjugated() -> None:
    """Coefficients and states before are; so are those of segments."""
    shape, axis = (2, 61, 5), 1
    for kind in KINDS:
        given = draw(kind, shape, axis, "complex64", states=True, backward=True)
        results = results_for(given, axis, shape, "complex64")
        problem, pointers = problem_of(shape, axis, given | results, conjugate=True)
        address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
        gpu.run(problem, 0, address, pointers)
        del memory
        turned = {name: v.conj() if name in ("a", "h", "h0") else v for name, v in given.items()}
        for name, want in serial(turned, axis, False, shape).items():
            np.testing.assert_allclose(results[name], want, 1e-3, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_offsets_of_both_sizes(dtype: str) -> None:
    """Also strided and against their addresses, and where most segments have few steps or none."""
    way, shape, axis, numbers = PLANS[1]
    length = shape[axis]
    dense = np.sort(rng_for("dense").integers(0, length + 1, 300))
    dense[[0, -1]] = 0, length
    for starts in (offsets_for(length), dense, np.arange(length + 1)):
        spread = np.zeros(3 * len(starts), dtype)[::-3]
        spread[...] = starts
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                for given_starts in (starts.astype(dtype), spread):
                    given = draw(
                        "offsets",
                        shape,
                        axis,
                        "float32",
                        states=True,
                        backward=backward,
                        starts=given_starts,
                    )
                    check(given, axis, backward, way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_axes_than_a_kernel_counts_along(kind: str) -> None:
    """The launch is repeated; offsets are the same for all, masks their own."""
    shape, axis = (2, 2, 2, 2, 2, 2, 2, 2, 13), 8
    with emulated.tuned(**SMALL):
        for backward in (False, True):
            given = draw(kind, shape, axis, "float32", states=True, backward=backward)
            for name in ("a", "x", "h", "grad_h"):
                if name in given:  # gaps, so that no two axes are one
                    spread = np.zeros(tuple(n + 1 for n in shape), "f4")
                    spread = spread[tuple(slice(0, n) for n in shape)]
                    spread[...] = given[name]
                    given[name] = spread
            check(given, axis, False, "repeated")


@pytest.mark.slow
def test_states_that_are_not_wanted() -> None:
    """A pass may leave out what leaves its segments, and be given only one kind of state."""
    _, shape, axis, numbers = PLANS[1]
    with emulated.tuned(**(SMALL | numbers)):
        for backward, last in ((False, "final"), (True, "grad_h0")):
            given = draw("offsets", shape, axis, "float32", states=True, backward=backward)
            check(given, axis, False, spare=(last,))
            if backward:
                for name in ("h0", "grad_final"):
                    check({k: v for k, v in given.items() if k != name}, axis, True)


@pytest.mark.slow
def test_masks_of_each_lane() -> None:
    """A mask that differs from lane to lane, and one that is the same for every sequence."""
    _, shape, axis, numbers = PLANS[1]
    for mask_shape in (shape, (shape[1], 1), (1, shape[1], shape[2])):
        starts = rng_for("masks", mask_shape).random(mask_shape) < 0.1
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                given = draw(
                    "reset", shape, axis, "float32", states=True, backward=backward, starts=starts
                )
                check(given, axis, backward)
