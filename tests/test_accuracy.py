"""float32 as exact as a serial float32 loop, whatever the decay: on every member of the matrix and every path."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from capabilities import Backend
from matrix import MEMBERS, Member
from oracle import Array

from bench.cpu import accuracy
from bench.cpu.accuracy import Case, Inputs

#: The most that a parallel scan may lose, as a multiple of the serial loop's largest error.
MOST = 2.0


@functools.lru_cache(maxsize=1)
def prepared(case: Case) -> tuple[Inputs, Array, float]:
    given = accuracy.inputs(case)
    return given, *accuracy.truth_and_loop(case, given)


def run_of(lib: Member, work: str) -> accuracy.Run:
    def run(a: Array, x: Array, h0: Array, axis: int) -> Array:
        given = [lib.array(v) for v in (a, x, h0)]
        if work == "backward":
            # The gradient through h and the final state, with h0 left out: x has the shape of both.
            return lib.numpy(lib.gradients(*given[:2], None, given[1], given[2], axis=axis)[1])
        return lib.numpy(lib.scan(*given, axis=axis, reverse=work == "reverse"))

    return run


def check(lib: Member, case: Case, layouts: list[str]) -> None:
    given, truth, loop = prepared(case)
    run = run_of(lib, case.work)
    for layout in layouts:
        ratio = accuracy.ratio(case, given, truth, loop, layout, run)
        assert ratio <= MOST, f"{lib}, {layout}, {case}: {ratio:.2f} times the serial loop's error"


def cases(lengths: tuple[int, ...], sequences: int = 32) -> Iterator[Case]:
    drawn = itertools.product(accuracy.DTYPES, accuracy.DECAYS, lengths, accuracy.WORKS)
    for dtype, decay, T, work in drawn:
        yield Case(dtype, decay, T, sequences, work)


def test_the_example_that_was_wrong() -> None:
    """A constant 0.999 over 1,000 ones: 632.30798, where products rounded alike at every vector made 632.3106."""
    import scanlib

    h = scanlib.linear_recurrence(np.full(1000, 0.999, np.float32), np.ones(1000, np.float32))
    exact = (1 - np.float64(np.float32(0.999)) ** 1000) / (1 - np.float64(np.float32(0.999)))
    assert abs(h[-1] - exact) <= 4 * np.spacing(np.float32(exact))


@pytest.mark.slow_for(Backend.STRICT, Backend.TORCH_COMPILE)
@pytest.mark.parametrize("kind", accuracy.DTYPES)
def test_short(lib: Member, kind: str) -> None:
    """Where a few roundings are all there is."""
    given = [case for case in cases((10, 100), 64) if case.dtype == kind]
    for index, case in enumerate(lib.pick(given)):
        layouts = list(accuracy.LAYOUTS)
        check(lib, case, layouts if index % 5 == 0 else [layouts[index % len(layouts)]])


@pytest.mark.slow_for(Backend.STRICT)
@pytest.mark.parametrize("kind", accuracy.DTYPES)
def test_long(lib: Member, kind: str) -> None:
    """Tens of thousands of steps: where what is lost at each block adds up, and time is split."""
    T = 30_000 if lib.capability.large > 3 else 3000 if lib.capability.native else 1000
    given = [case for case in cases((T,), 16) if case.dtype == kind]
    for index, case in enumerate(lib.pick(given)):
        layouts = list(accuracy.LAYOUTS)
        check(lib, case, [layouts[index % len(layouts)]])


@pytest.mark.parametrize("kind", accuracy.DTYPES)
def test_jax_operations(kind: str) -> None:
    """The path of platforms without kernels."""
    pytest.importorskip("jax")
    from jax_cases import PureJax

    for case in cases((100, 3000), 16):
        if case.dtype == kind and case.work != "backward":
            check(PureJax(Backend.JAX), case, ["(T, 16) axis 0"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", accuracy.DTYPES)
def test_a_million_steps(kind: str) -> None:
    """Every decay in every layout, each one way; bench/cpu/accuracy.py takes all ways."""
    lib = MEMBERS[Backend.NUMPY](Backend.NUMPY)
    for decay, work in zip(accuracy.DECAYS, itertools.cycle(accuracy.WORKS), strict=False):
        check(lib, Case(kind, decay, 1_000_000, 16, work), list(accuracy.LAYOUTS))
