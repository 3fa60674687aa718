"""Cells over sequences one after the other, and over sequences that start by a reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import rng_for

from scanlib import DeviceError, OffsetsError, ShapeError, cells

#: Of no steps, of one, and shorter than a window, among others.
OFFSETS = [0, 0, 5, 6, 6, 13, 20, 20]
STEPS, SIZE = OFFSETS[-1], 6
OPTIONS = {"qrnn": [{"width": 3}, {"width": 1}, {"pooling": "ifo"}]}
CELLS = [cell(**o) for name, cell in cells.CELLS.items() for o in [*OPTIONS.get(name, []), {}]]


def _libraries() -> list[Any]:
    def numpy() -> Callable[[Any], Any]:
        return np.asarray

    def strict() -> Callable[[Any], Any]:
        return pytest.importorskip("array_api_strict").asarray

    def torch() -> Callable[[Any], Any]:
        found = pytest.importorskip("torch")
        return lambda v: found.tensor(np.array(v))

    def jax() -> Callable[[Any], Any]:
        found = pytest.importorskip("jax")
        return found.numpy.asarray

    return [numpy, strict, torch, jax]


@pytest.fixture(params=_libraries(), ids=lambda make: make.__name__)
def array(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return request.param()


def ids(cell: cells.Cell) -> str:
    return str(cell)


def parameters(cell: cells.Cell, array: Callable[[Any], Any]) -> dict[str, Any]:
    made = cell.init(np.random.default_rng(1), SIZE, 8)
    return {name: array(np.asarray(value)) for name, value in made.items()}


def part(values: Any, axis: int, at: Any) -> Any:
    return np.asarray(values)[(slice(None),) * axis + (at,)]


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_packed_sequences_are_those_alone(
    cell: cells.Cell, with_state: bool, array: Callable[[Any], Any]
) -> None:
    params = parameters(cell, array)
    for lead in ((), (2,)):
        axis, rng = len(lead), rng_for(str(cell), lead)
        x = rng.normal(size=(*lead, STEPS, SIZE))
        count = len(OFFSETS) - 1
        before = [
            cell(params, array(rng.normal(size=(*lead, 3, SIZE))), axis=axis)[1]
            for _ in range(count)
        ]
        state = None
        if with_state:
            arrays = ([np.asarray(s[i]) for s in before] for i in range(len(cell.state)))
            state = tuple(array(np.stack(each, axis)) for each in arrays)
        y, final = cell(params, array(x), state, axis=axis, offsets=OFFSETS)
        for i in range(count):
            steps, own = slice(OFFSETS[i], OFFSETS[i + 1]), before[i] if with_state else None
            alone = own or cell.initial_state(params, array(part(x, axis, 0)))
            if steps.stop > steps.start:
                y_alone, alone = cell(params, array(part(x, axis, steps)), own, axis=axis)
                np.testing.assert_allclose(part(y, axis, steps), y_alone, rtol=1e-8, atol=1e-10)
            for mine, theirs in zip(final, alone, strict=True):
                np.testing.assert_allclose(part(mine, axis, i), theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_nothing_crosses_a_reset(cell: cells.Cell, array: Callable[[Any], Any]) -> None:
    """After a reset a cell does what it does on what follows alone, whatever was before: a NaN too."""
    params, axis = parameters(cell, array), 1
    x = rng_for(str(cell)).normal(size=(2, STEPS, SIZE))
    start = 7
    reset = np.zeros((2, STEPS), bool)
    reset[:, start] = True
    first = np.zeros((2, STEPS - start), bool)
    first[:, 0] = True  # some cells scale the input of a step that is reset
    alone, final_alone = cell(params, array(x[:, start:]), axis=axis, reset=array(first))
    x[:, :start] = np.nan
    y, final = cell(params, array(x), axis=axis, reset=array(reset))
    np.testing.assert_allclose(part(y, axis, slice(start, None)), alone, rtol=1e-8, atol=1e-10)
    for mine, theirs in zip(final, final_alone, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "lie", [[0, 3, STEPS + 4], [0, 9, 3, STEPS], [STEPS], [0, -2, STEPS]], ids=str
)
@pytest.mark.parametrize("name", ["gilr_lstm", "qrnn", "t_gru", "wkv"])
def test_offsets_that_lie_are_refused(
    name: str, lie: list[int], array: Callable[[Any], Any]
) -> None:
    cell = cells.CELLS[name]()
    params, x = parameters(cell, array), array(np.ones((STEPS, SIZE)))
    for offsets in (lie, array(np.array(lie))):
        with pytest.raises(OffsetsError):
            cell(params, x, axis=0, offsets=offsets)


@pytest.mark.parametrize("offsets", [None, [0, 2, 6]], ids=["whole", "packed"])
@pytest.mark.parametrize("name", ["gilr_lstm", "qrnn", "t_gru", "wkv"])
def test_a_state_of_other_sequences_is_refused(
    name: str, offsets: list[int] | None, array: Callable[[Any], Any]
) -> None:
    """What stands in for the state before is joined with steps one by one: it is that of these very sequences."""
    cell = cells.CELLS[name]()
    params, x = parameters(cell, array), array(np.ones((2, 6, SIZE)))
    _, state = cell(params, x, axis=1, offsets=offsets)
    lead = (2,) if offsets is None else (2, 2)
    size = state[0].shape[-1]
    shapes = [(*at, size) for at in ((*lead[:-1], 3), (*lead[:-1], 1), (*lead, 1))]
    for wrong in [*shapes, (*lead, size + 1), (*lead, size - 1), ()]:
        bad = array(np.zeros(wrong)), *state[1:]
        with pytest.raises(ShapeError, match=f"{cell.state[0]} of the state has shape"):
            cell(params, x, bad, axis=1, offsets=offsets)
        if offsets is None:
            with pytest.raises(ShapeError, match=f"{cell.state[0]} of the state has shape"):
                cell.step(params, x[:, 0, :], bad)


def test_offsets_on_another_device_are_refused() -> None:
    torch = pytest.importorskip("torch")
    cell = cells.GILR()
    params = {k: torch.as_tensor(v) for k, v in cell.init(np.random.default_rng(1), 3, 3).items()}
    offsets = torch.tensor([0, 6], device="meta")
    with pytest.raises(DeviceError, match=r"offsets.*meta"):
        cell(params, torch.ones(6, 3, dtype=torch.float64), axis=0, offsets=offsets)
