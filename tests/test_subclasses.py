"""Subclasses of NumPy's arrays: what means more than its numbers is refused, a view of numbers is read as it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import same_bits

import scanlib
from scanlib import cells


class WithUnit(np.ndarray[Any, Any]):
    """As of astropy or unyt: ufuncs are told what to do with it."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = (v.view(np.ndarray) if isinstance(v, WithUnit) else v for v in inputs)
        return getattr(ufunc, method)(*plain, **options).view(WithUnit)


class OfFunctions(np.ndarray[Any, Any]):
    def __array_function__(self, *arguments: Any) -> Any:
        return super().__array_function__(*arguments)


class Labelled(np.ndarray[Any, Any]):
    """As NumPy's manual has it: what every result inherits."""

    label: str

    def __array_finalize__(self, source: Any) -> None:
        self.label = getattr(source, "label", "")


class Inherited(WithUnit):
    """Says nothing itself."""


class Wrapped(np.memmap):
    """As the quantities package has it: NumPy's own class underneath, and more."""

    def __array_wrap__(self, *arguments: Any) -> Any:
        return np.ndarray.__array_wrap__(self, *arguments)


def masked(values: Any) -> Any:
    return np.ma.masked_array(values, np.zeros(values.shape, bool))


MEANING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "masked": (masked, "filled"),
    **{
        cls.__name__: ((lambda values, cls=cls: values.view(cls)), "numpy.asarray")
        for cls in (WithUnit, OfFunctions, Labelled, Inherited, Wrapped)
    },
}


def places(make: Callable[[Any], Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everywhere in the public interface that an array goes, by its name, and the call that has one of `make` there."""
    good, state = np.ones((3, 4)), np.ones(3)
    bad, bad_state = make(good.copy()), make(state.copy())
    run, vjp, explain = (
        scanlib.linear_recurrence,
        scanlib.linear_recurrence_vjp,
        scanlib.explain,
    )
    yield "a", lambda: run(bad, good, axis=1)
    yield "a", lambda: run(bad, 1.0, axis=1)
    yield "x", lambda: run(good, bad, axis=1)
    yield "x", lambda: run(bad_state[0] * 0 + 0.5, bad, axis=1)
    yield "h0", lambda: run(good, good, bad_state, axis=1)
    yield "out", lambda: run(good, good, axis=1, out=bad)
    yield "grad_h", lambda: vjp(bad, good, good, axis=1)
    yield "a", lambda: vjp(good, bad, good, axis=1)
    yield "h", lambda: vjp(good, good, bad, axis=1)
    yield "h0", lambda: vjp(good, good, good, bad_state, axis=1)
    yield "grad_final", lambda: vjp(good, good, good, axis=1, grad_final=bad_state)
    yield "a", lambda: explain(bad, good, axis=1)
    yield "x", lambda: explain(good, bad, axis=1)
    yield "h0", lambda: explain(good, good, bad_state, axis=1)
    cell = cells.GILR()
    params = cell.init(np.random.default_rng(0), 4, 3)
    yield "x", lambda: cell(params, bad)
    yield "x", lambda: cell.step(params, bad)
    yield "weight", lambda: cell({**params, "weight": make(params["weight"])}, good)
    yield "state", lambda: cell(params, good, (bad_state,))
    yield "state", lambda: cell.step(params, good[0], (bad_state,))
    yield "reset", lambda: cell(params, good, reset=make(np.zeros(3, bool)))
    w = np.full(4, -1.0)
    yield "w", lambda: cells.wkv(make(w), w, good, good)
    yield "u", lambda: cells.wkv(w, make(w), good, good)
    yield "k", lambda: cells.wkv(w, w, bad, good)
    yield "v", lambda: cells.wkv(w, w, good, bad)
    yield "state", lambda: cells.wkv(w, w, good, good, (w, make(w), w))
    yield "v", lambda: cells.wkv_step(w, w, w, make(w), (w, w, w))


@pytest.mark.parametrize("kind", MEANING)
def test_what_means_more_than_its_numbers_is_refused(kind: str) -> None:
    make, advice = MEANING[kind]
    for name, call in places(make):
        with pytest.raises(scanlib.ArrayKindError) as caught:
            call()
        assert advice in str(caught.value)
        assert name in str(caught.value).split(" is ")[0], f"{name}: {caught.value}"


def test_a_mask_is_not_dropped() -> None:
    given = np.ma.masked_array([1.0, 1e9, 1.0, 1.0], [0, 1, 0, 0])
    with pytest.raises(scanlib.ArrayKindError, match=r"x\.filled\("):
        scanlib.linear_recurrence(0.5, given)
    assert scanlib.linear_recurrence(0.5, given.filled(0)).tolist() == [1, 0.5, 1.25, 1.625]
    with pytest.raises(scanlib.ArrayKindError, match="filled"):
        scanlib.linear_recurrence(0.5, given[:3], np.ma.masked)


class Plain(np.ndarray[Any, Any]):
    """Adds methods, nothing that NumPy's functions know of."""

    def total(self) -> Any:
        return self.sum()


class Mapped(np.memmap):
    """A class of NumPy's own with more methods."""


@pytest.mark.parametrize("cls", [np.recarray, np.matrix, Plain, np.memmap, Mapped])
def test_views_of_numbers_are_read_as_they_lie(cls: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (5, 7))
    if issubclass(cls, np.memmap):
        made = cls(tmp_path / "values", values.dtype, "w+", shape=values.shape)
        made[...] = values
    else:
        made = values.copy().view(cls)
    state = np.asarray(made)[0]
    h, final = scanlib.linear_recurrence(made, made, state, axis=0, return_final=True)
    assert type(h) is type(final) is np.ndarray
    assert same_bits(h, scanlib.linear_recurrence(values, values, state, axis=0))
    grads = scanlib.linear_recurrence_vjp(made, made, made, axis=0)
    assert all(
        map(same_bits, grads[:2], scanlib.linear_recurrence_vjp(values, values, values, axis=0))
    )
    assert scanlib.explain(made, made, axis=0) == scanlib.explain(values, values, axis=0)
    result = scanlib.linear_recurrence(values, values, axis=0, out=made)
    assert result is made
    assert same_bits(made, scanlib.linear_recurrence(values, values, axis=0))
