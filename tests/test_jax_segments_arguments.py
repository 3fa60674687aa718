"""What is given in JAX for `offsets` and `reset`: any integers are taken, lies and what does not fit refused."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import scanlib

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    assert_trees_close,
    handlers,  # noqa: F401, a fixture of every test
    scan,
)
from jax_segment_cases import CASES, pures  # noqa: E402


@pures
def test_offsets_are_arguments_of_one_program(pure: bool) -> None:
    """Traced, of a length alone; in every kind of integer, and as lists and NumPy's arrays."""
    case = CASES["offsets"]
    a, x, h0 = case.args()
    traces = []

    @jax.jit
    def program(a: Any, x: Any, h0: Any, offsets: Any) -> Any:
        traces.append(offsets)
        return scan(a, x, h0, axis=1, offsets=offsets, return_final=True, pure=pure)

    for ends in ((0, 0, 3, 10, 12, 12), (0, 3, 5, 7, 9, 12), (0, 12, 12, 12, 12, 12)):
        expected = case._replace(ends=ends).alone(a, x, h0)
        assert_trees_close(program(a, x, h0, jnp.array(ends)), expected)
    assert len(traces) == 1
    if pure:  # no other way for the rest
        return
    for dtype in ("int32", "uint8", "uint64"):
        assert_trees_close(program(a, x, h0, np.array(ends, dtype)), expected)
        assert_trees_close(
            scan(a, x, h0, axis=1, offsets=jnp.array(ends, dtype), return_final=True, pure=pure),
            expected,
        )
    for offsets in (list(ends), tuple(ends), np.array(ends), [0, jnp.int64(12), *ends[2:]]):
        given = {"axis": 1, "offsets": offsets, "return_final": True}
        assert_trees_close(scan(a, x, h0, pure=pure, **given), expected)
    with jax.enable_x64(False):
        small = [jnp.asarray(np.asarray(v), jnp.float32) for v in (a, x, h0)]
        for offsets in (list(ends), np.array(ends), jnp.array(ends)):
            h, _ = scan(*small, axis=1, offsets=offsets, return_final=True, pure=pure)
            np.testing.assert_allclose(h, expected[0], rtol=1e-4, atol=1e-4)


LIES = [(0, 3), (1, 40), (0, 30, 20, 40), (0, 41), (-1, 40), (0,)]


@pytest.mark.parametrize("ends", LIES)
def test_offsets_that_lie(ends: tuple[int, ...]) -> None:
    """Where they can be read they raise; in a program the handler's words say it, and the pure path stays inside."""
    x = jnp.ones((40, 2))
    for offsets in (list(ends), np.array(ends), jnp.array(ends), jnp.array(ends, "int32")):
        with pytest.raises(
            scanlib.OffsetsError, match=r"begin at 0, never decrease, and end at.*40"
        ):
            scanlib.linear_recurrence(0.5, x, axis=0, offsets=offsets)
        with pytest.raises(scanlib.OffsetsError, match="40"):
            scanlib.linear_recurrence_vjp(x, 0.5, x, axis=0, offsets=offsets)
        with pytest.raises(scanlib.OffsetsError, match="40"):
            scanlib.explain(0.5, x, axis=0, offsets=offsets)
        with pytest.raises(scanlib.OffsetsError, match="40"):
            jax.jit(lambda x, o=offsets: scan(0.5, x, axis=0, offsets=o))(x)
    if len(ends) == 1:
        return
    h0 = jnp.ones((len(ends) - 1, 1))
    for pure in (False, True):
        run = jax.jit(functools.partial(scan, axis=0, return_final=True, pure=pure))
        if pure:
            h, final = run(0.5, x, h0, offsets=jnp.array(ends))
            assert (h.shape, final.shape) == ((40, 2), (len(ends) - 1, 2))
        else:
            with pytest.raises(jax.errors.JaxRuntimeError, match="offsets must begin at 0"):
                jax.block_until_ready(run(0.5, x, h0, offsets=jnp.array(ends)))


def test_wrong_arguments() -> None:
    x = jnp.ones((4, 3))
    run = functools.partial(scanlib.linear_recurrence, 0.5, x, axis=0)
    vjp = functools.partial(scanlib.linear_recurrence_vjp, x, 0.5, x, axis=0)
    for call in (run, vjp, functools.partial(scanlib.explain, 0.5, x, axis=0)):
        with pytest.raises(scanlib.ShapeError, match="give one of them"):
            call(reset=x > 0, offsets=[0, 4])
        with pytest.raises(scanlib.DTypeError, match="make it boolean"):
            call(reset=x)
        with pytest.raises(scanlib.ShapeError, match="reset has shape"):
            call(reset=jnp.ones((4, 2), bool))
        for bad in ([0.0, 4.0], np.array([0.0, 4.0]), jnp.array([0.0, 4.0]), [False, True]):
            with pytest.raises(scanlib.DTypeError, match="counts steps"):
                call(offsets=bad)
        for bad in ([], [[0, 4]], np.array(4)):
            with pytest.raises(scanlib.ShapeError, match="offsets has shape"):
                call(offsets=bad)
        with pytest.raises(scanlib.ArrayKindError, match="offsets is a str"):
            call(offsets="04")
        with pytest.raises(scanlib.ArrayKindError):
            call(reset=np.ones((4, 1), bool))
    with pytest.raises(scanlib.ShapeError, match="2 sequences of offsets"):
        run(jnp.ones((4, 3)), offsets=[0, 1, 4])
