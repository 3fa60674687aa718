"""Sequences that start inside the time axis, by `reset` and by `offsets`, for every member of the matrix."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from helpers import rng_for
from matrix import Member

import scanlib
from scanlib import ArrayKindError, DTypeError, OffsetsError, ShapeError

Array = np.ndarray[Any, np.dtype[Any]]

#: (shape, axis): rows and columns, few and many lanes, time whole and cut into segments.
LAYOUTS = [
    ((70_000,), 0),
    ((24_000, 3), 0),
    ((2, 61, 5), 1),
    ((3, 40, 300), 1),
    ((6, 2, 70), 2),
    ((33, 4, 37), 0),
]
#: Lengths of sequences as packed batches of documents have them.
LENGTHS = [[15], [256, 244, 500], [15, 85, 200, 900, 800], [1, 1, 0, 3, 0, 0], [0, 2, 1, 61]]


def offsets_of(lengths: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def lengths_for(steps: int, seed: int) -> list[int]:
    """Lengths that fill an axis: some of none, some of one step."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, steps + 1, 6))
    cuts = np.sort([*cuts, cuts[2], min(cuts[3] + 1, steps)])
    return np.diff([0, *cuts, steps]).tolist()


def layouts(lib: Member) -> list[tuple[tuple[int, ...], int]]:
    cases = lib.pick(LAYOUTS)
    if lib.capability.native and lib.backend is not Backend.EMULATED:
        return cases
    return [(tuple(min(n, 300) for n in shape), axis) for shape, axis in cases]


def operands(shape: tuple[int, ...], axis: int, states: int | None) -> tuple[Array, Array, Array]:
    rng = rng_for(shape, axis)
    along = () if states is None else (states,)
    state = (*shape[:axis], *along, *shape[axis + 1 :])
    return rng.uniform(0.5, 1, shape), rng.normal(size=shape), rng.normal(size=state)


def part(array: Array, axis: int, at: Any) -> Array:
    return array[(slice(None),) * axis + (at,)]


def one_by_one(
    lib: Member, a: Array, x: Array, h0: Array | None, offsets: Array, **options: Any
) -> Any:
    """h and the final states, from a call for each sequence."""
    axis, hs, finals = options["axis"], [], []
    for i, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        given = [part(v, axis, slice(start, stop)) for v in (a, x)]
        state = None if h0 is None else part(h0, axis, i)
        operands = [None if v is None else lib.array(v) for v in (*given, state)]
        h, final = map(lib.numpy, lib.scan(*operands, return_final=True, **options))
        hs.append(h)
        finals.append(final)
    return np.concatenate(hs, axis), np.stack(finals, axis)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_are_those_alone(lib: Member, reverse: bool) -> None:
    for (shape, axis), with_state in itertools.product(layouts(lib), (True, False)):
        offsets = offsets_of(lengths_for(shape[axis], axis))
        a, x, h0 = operands(shape, axis, len(offsets) - 1)
        state = h0 if with_state else None
        options: dict[str, Any] = {"axis": axis, "reverse": reverse}
        reference = MEMBER_NUMPY if lib.capability.cases < 5 else lib
        want = one_by_one(reference, a, x, state, offsets, **options)
        given = [None if v is None else lib.array(v) for v in (a, x, state)]
        got = lib.scan(*given, return_final=True, offsets=lib.array(offsets), **options)
        for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lengths_of_documents(lib: Member, lengths: list[int]) -> None:
    if not lib.capability.native and sum(lengths) > 600:
        pytest.skip("a step is a call into the library")
    offsets = offsets_of(lengths)
    a, x, h0 = operands((2, int(offsets[-1]), 4), 1, len(lengths))
    given = map(lib.array, (a, x, h0))
    got = lib.scan(*given, axis=1, return_final=True, offsets=lib.array(offsets.astype(np.int32)))
    want = one_by_one(MEMBER_NUMPY, a, x, h0, offsets, axis=1)
    for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow_for("emulated")
def test_a_long_row_with_starts_is_a_batch(lib: Member) -> None:
    """2048 steps with a start every 32 are a batch of 64 sequences, whichever way starts are given."""
    steps, length = (2048, 32) if lib.capability.native else (256, 32)
    a, x, _ = operands((steps, 6), 0, None)
    want = scanlib.linear_recurrence(*(v.reshape(-1, length, 6) for v in (a, x)), axis=1)
    reset = np.arange(steps)[:, None] % length == 0
    offsets = np.arange(0, steps + 1, length)
    for starts in {"reset": lib.array(reset)}, {"offsets": lib.array(offsets)}:
        h = lib.numpy(lib.scan(lib.array(a), lib.array(x), axis=0, **starts))
        np.testing.assert_allclose(h.reshape(-1, length, 6), want, rtol=1e-12, atol=1e-12)


@pytest.mark.needs("native")
def test_packed_columns_have_the_bits_of_those_alone(lib: Member) -> None:
    if lib.capability.gpu or lib.backend is Backend.EMULATED:
        pytest.skip("tiles of a GPU begin where the array does")
    for dtype, reverse in itertools.product((np.float32, np.complex64), (False, True)):
        a, x, h0 = (v.astype(dtype) for v in operands((3, 500, 70), 1, 9))
        offsets = offsets_of(lengths_for(500, 7))
        options: dict[str, Any] = {"axis": 1, "reverse": reverse}
        want = one_by_one(lib, a, x, h0, offsets, **options)
        given = map(lib.array, (a, x, h0))
        got = lib.scan(*given, return_final=True, offsets=lib.array(offsets), **options)
        for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
            assert mine.tobytes() == theirs.tobytes()


# ---- reset


def masks(shape: tuple[int, ...], axis: int) -> list[Array]:
    """For all lanes alike, one for each lane, and such that all or none of the steps starts."""
    rng = rng_for("reset", shape)
    time = [n if d == axis else 1 for d, n in enumerate(shape)]
    batch = [n if d in (0, axis) else 1 for d, n in enumerate(shape)]
    drawn = [rng.random(extents) < 0.05 for extents in (time, batch, shape)]
    return [*drawn, np.zeros(time, bool), np.ones((1,) * len(shape), bool)]


def serial(a: Array, x: Array, h0: Array | None, reset: Array, axis: int, reverse: bool) -> Any:
    """h and the final state, step by step."""
    first = [np.moveaxis(np.broadcast_to(v, x.shape), axis, 0) for v in (a, x, reset)]
    order = range(x.shape[axis])
    state = np.zeros(first[1].shape[1:], x.dtype) if h0 is None else h0
    h = np.empty_like(first[1])
    for t in reversed(order) if reverse else order:
        with np.errstate(invalid="ignore", over="ignore"):
            state = np.where(first[2][t], first[1][t], first[0][t] * state + first[1][t])
        h[t] = state
    return np.moveaxis(h, 0, axis), state


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_enters_a_step_that_is_reset(lib: Member, reverse: bool) -> None:
    for shape, axis in layouts(lib):
        a, x, h0 = operands(shape, axis, None)
        for reset in lib.pick(masks(shape, axis)):
            want = serial(a, x, h0, reset, axis, reverse)
            given = map(lib.array, (a, x, h0))
            options: dict[str, Any] = {"axis": axis, "reverse": reverse, "return_final": True}
            got = lib.scan(*given, reset=lib.array(reset), **options)
            for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "a", "h0"])
def test_what_is_not_finite_crosses_no_start(lib: Member, bad: float, where: str) -> None:
    for shape, axis in layouts(lib):
        steps = shape[axis]
        a, x, h0 = operands(shape, axis, None)
        start = steps // 2
        reset = np.arange(steps) == start
        reset = reset.reshape([-1 if d == axis else 1 for d in range(len(shape))])
        if where == "h0":
            h0[...] = bad
        else:
            part({"a": a, "x": x}[where], axis, slice(start // 2, start // 2 + 1))[...] = bad
        part(a, axis, slice(start, start + 1))[...] = np.inf  # nor is it multiplied by nothing
        given = map(lib.array, (a, x, h0))
        h, final = map(
            lib.numpy, lib.scan(*given, axis=axis, return_final=True, reset=lib.array(reset))
        )
        assert np.array_equal(part(h, axis, start), part(x, axis, start))
        alone = scanlib.linear_recurrence(
            part(a, axis, slice(start + 1, None)),
            part(x, axis, slice(start + 1, None)),
            part(x, axis, start),
            axis=axis,
        )
        np.testing.assert_allclose(
            part(h, axis, slice(start + 1, None)), alone, rtol=1e-11, atol=1e-11
        )
        assert np.isfinite(final).all()


# ---- gradients


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_packed_sequences_are_those_alone(lib: Member, reverse: bool) -> None:
    for shape, axis in layouts(lib)[-2:]:
        offsets = offsets_of(lengths_for(shape[axis], 3))
        a, x, h0 = operands(shape, axis, len(offsets) - 1)
        grad_h, grad_final = rng_for("grads").normal(size=shape), h0[::-1].copy()
        options: dict[str, Any] = {"axis": axis, "reverse": reverse}
        given = map(lib.array, (a, x, h0, grad_h, grad_final))
        got = lib.gradients(*given, offsets=lib.array(offsets), **options)
        pieces: list[tuple[Array, Array, Array]] = []
        for i, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            along = [part(v, axis, slice(start, stop)) for v in (a, x, grad_h)]
            alone = (*along[:2], part(h0, axis, i), along[2], part(grad_final, axis, i))
            pieces.append(MEMBER_NUMPY.gradients(*alone, **options))
        grads_a, grads_x, grads_h0 = zip(*pieces, strict=True)
        want = (
            np.concatenate(grads_a, axis),
            np.concatenate(grads_x, axis),
            np.stack(grads_h0, axis),
        )
        for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_flow_over_no_reset(lib: Member, reverse: bool) -> None:
    for shape, axis in layouts(lib)[-2:]:
        a, x, h0 = operands(shape, axis, None)
        grad_h, grad_final = rng_for("grads").normal(size=shape), h0[::-1].copy()
        for reset in lib.pick(masks(shape, axis)):
            options: dict[str, Any] = {"axis": axis, "reverse": reverse}
            given = map(lib.array, (a, x, h0, grad_h, grad_final))
            got = lib.gradients(*given, reset=lib.array(reset), **options)
            # Where every number is finite, a reset is a decay of 0 whose own gradient does not exist.
            cut = np.where(reset, 0, a)
            grads = MEMBER_NUMPY.gradients(cut, x, h0, grad_h, grad_final, **options)
            want = np.where(reset, 0, grads[0]), *grads[1:]
            for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)
            assert not np.any(lib.numpy(got[0])[np.broadcast_to(reset, shape)])


def test_gradients_of_what_is_repeated(lib: Member) -> None:
    """A decay for each channel, one state for all sequences: their gradients are sums over all of them."""
    shape, axis = (2, 40, 3), 1
    _, x, _ = operands(shape, axis, None)
    offsets, a, h0 = offsets_of([7, 0, 13, 20]), np.array([0.5, 0.9, 0.99]), np.ones((1, 1, 3))
    grad_h, grad_final = (
        rng_for("grads").normal(size=shape),
        rng_for("final").normal(size=(2, 4, 3)),
    )
    given = list(map(lib.array, (a, x, h0, grad_h, grad_final)))
    got = lib.gradients(*given, axis=axis, offsets=lib.array(offsets))
    full = np.broadcast_to(a, shape).copy(), x, np.broadcast_to(h0, (2, 4, 3)).copy()
    grad_a, grad_x, grad_h0 = MEMBER_NUMPY.gradients(
        *full, grad_h, grad_final, axis=axis, offsets=offsets
    )
    want = grad_a.sum((0, 1)), grad_x, grad_h0.sum((0, 1), keepdims=True)
    for mine, theirs in zip(map(lib.numpy, got), want, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)


# ---- what does not fit


LIES = [[1, 5, 10], [0, 7, 5, 10], [0, 5, 9], [0, 5, 11], [0, -3, 10], [0, 5, 2**40]]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_offsets_that_lie_are_refused(lib: Member, lie: list[int]) -> None:
    if lib.capability.gpu or lib.backend is Backend.EMULATED:
        pytest.skip("to read them there would be to wait")
    a, x, _ = (lib.array(v) for v in operands((10, 2), 0, None))
    known = lib.backend is not Backend.JAX_JIT  # XLA raises its own error, with libscanlib's text
    with pytest.raises(OffsetsError if known else Exception, match="offsets"):
        lib.numpy(lib.scan(a, x, axis=0, offsets=lib.array(np.array(lie))))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], ShapeError),
        ([[0, 10]], ShapeError),
        ([[0], [1, 10]], ShapeError),
        (np.array([]), DTypeError),
        ([0.0, 10.0], DTypeError),
        (np.array([0.0, 10.0]), DTypeError),
        ({0, 10}, ArrayKindError),
        (np.int64(10), ArrayKindError),
        ("0", ArrayKindError),
        (np.ma.masked_array([0, 10], [0, 1]), ArrayKindError),
    ],
    ids=str,
)
def test_what_is_no_offsets_is_refused_alike(lib: Member, given: Any, error: type) -> None:
    a, x = lib.array(np.array(0.5)), lib.array(np.ones((10, 2)))
    with pytest.raises(error, match="offsets"):
        scanlib.linear_recurrence(a, x, axis=0, offsets=given)


def test_lists_and_integers_of_all_kinds_are_offsets(lib: Member) -> None:
    a, x, _ = (lib.array(v) for v in operands((10, 2), 0, None))
    want = lib.numpy(scanlib.linear_recurrence(a, x, axis=0, offsets=[0, 4, 10]))
    for dtype in ("uint8", "int16", "int32", "int64", ">i4", ">i8"):
        got = scanlib.linear_recurrence(a, x, axis=0, offsets=np.array([0, 4, 10], dtype))
        assert np.array_equal(lib.numpy(got), want)
    backwards = np.array([10, 4, 0])
    backwards.flags.writeable = False
    got = scanlib.linear_recurrence(a, x, axis=0, offsets=backwards[::-1])
    assert np.array_equal(lib.numpy(got), want)


def test_arguments_that_do_not_fit(lib: Member) -> None:
    a, x, _ = (lib.array(v) for v in operands((10, 2), 0, None))
    reset, offsets = lib.array(np.zeros((10, 1), bool)), [0, 4, 10]
    run = scanlib.linear_recurrence
    with pytest.raises(ShapeError, match="give one of them"):
        run(a, x, axis=0, reset=reset, offsets=offsets)
    with pytest.raises(ShapeError, match="with the 2 sequences of offsets"):
        run(a, x, lib.array(np.zeros((3, 2))), axis=0, offsets=offsets)
    with pytest.raises(ShapeError, match="N sequences have"):
        run(a, x, axis=0, offsets=lib.array(np.zeros((2, 2), np.int64)))
    with pytest.raises(ShapeError, match="reset has shape"):
        run(a, x, axis=0, reset=lib.array(np.zeros((9, 1), bool)))
    with pytest.raises(TypeError, match="reset has dtype"):
        run(a, x, axis=0, reset=lib.array(np.zeros((10, 1), np.int64)))
    with pytest.raises(TypeError, match="offsets has dtype"):
        run(a, x, axis=0, offsets=lib.array(np.array([0.0, 10.0])))


class _NumPy(Member):
    """NumPy, whichever member is tested."""

    def __init__(self) -> None:
        super().__init__(Backend.NUMPY)

    def array(self, values: Array) -> Any:
        return np.ascontiguousarray(values)

    def numpy(self, array: Any) -> Array:
        return np.asarray(array)


MEMBER_NUMPY = _NumPy()
