"""What only JAX has: its own kinds of arguments, what `explain` says of them, what is asked of JAX's internals.

Values, dtypes and first gradients are in the matrix's own tests, derivatives in test_jax_autodiff.py, programs in
test_jax_programs.py.
"""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import normal, rng_for, state_shape

import scanlib

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    assert_trees_close,
    handlers,  # noqa: F401, a fixture of every test
    scan,
    serial,
)

from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import by_scan  # noqa: E402
from scanlib.backends.jax import internals as jax_internals  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402
from scanlib.backends.jax import primitives as jax_primitives  # noqa: E402
from scanlib.backends.jax import probe as jax_probe  # noqa: E402
from scanlib.backends.jax import sharding as jax_sharding  # noqa: E402
from scanlib.backends.jax import views as jax_views  # noqa: E402
from scanlib.call import reduced_axes  # noqa: E402


@pytest.fixture
def x32() -> Iterator[None]:
    with jax.enable_x64(False):
        yield


# ---- arguments


@pytest.mark.usefixtures("x32")
def test_numbers_and_weak_types() -> None:
    half = jnp.ones((3,), jnp.bfloat16)
    assert scan(0.5, half).dtype == jnp.bfloat16
    assert scan(1, half, 2).dtype == jnp.bfloat16
    assert scan(0.5j, jnp.ones(3)).dtype == jnp.complex64
    assert scan(jnp.asarray(np.full(3, 0.5, np.float32)), half).dtype == jnp.float32
    assert jax.jit(scan)(1, half).dtype == jnp.bfloat16
    assert scan(0.5, jnp.ones(3)).dtype == jnp.float32
    grad = jax.grad(lambda a: scan(a, jnp.ones(3)).sum())(0.5)
    assert float(grad) == 1 + 2 * 0.5 + 1


def test_wrong_arguments() -> None:
    x = jnp.ones((3, 4))
    for bad in (
        jnp.ones((3, 4), int),
        x > 0,
        jax.random.split(jax.random.key(0), (3, 4)),
        x.astype(jnp.float8_e4m3fn),
    ):
        with pytest.raises(scanlib.DTypeError, match="dtype"):
            scanlib.linear_recurrence(bad, x, axis=0)
        with pytest.raises(scanlib.DTypeError, match="dtype"):
            scanlib.linear_recurrence(x, bad, axis=0)
        with pytest.raises(scanlib.DTypeError, match="dtype"):
            scanlib.linear_recurrence_vjp(x, x, x, bad[0], axis=0)
    with pytest.raises(scanlib.DTypeError, match="dtype"):
        scanlib.linear_recurrence(2, jnp.ones(3, int))
    with pytest.raises(scanlib.OutputError, match="donate") as caught:
        scanlib.linear_recurrence(x, x, axis=0, out=x)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(scanlib.ArrayKindError):
        scanlib.linear_recurrence(np.ones((3, 4)), x, axis=0)
    with pytest.raises(scanlib.AxisError):
        scanlib.linear_recurrence(x, x)
    with pytest.raises(scanlib.AxisTypeError):
        scanlib.linear_recurrence(x, x, axis=[0])
    with pytest.raises(scanlib.ShapeError):
        jax.jit(lambda x: scanlib.linear_recurrence(x, x, x, axis=0))(x)
    with jax.numpy_dtype_promotion("strict"), pytest.raises(scanlib.DTypeError, match="promote"):
        scanlib.linear_recurrence(x, x.astype(jnp.float32), axis=0)


def test_explain() -> None:
    x = jnp.ones((4, 100))
    found = scanlib.explain(0.5, x, axis=1)
    assert (found.library, found.path, found.notes) == ("jax", "libscanlib (cpu)", ())
    assert found.device == str(x.device)
    traced: list[Any] = []

    @jax.jit
    def program(x: Any) -> Any:
        traced.append(scanlib.explain(x, x, axis=1, reverse=True))
        return x

    program(x)
    assert traced[0].path == "libscanlib (cpu)"
    assert "traced" in traced[0].notes[0]
    spec = jax.ShapeDtypeStruct((4, 100), jnp.float32)
    assert adapter.explain(spec, x, None, 1, False, False).path == "libscanlib (cpu)"
    with pytest.raises(scanlib.ShapeError):
        scanlib.explain(x, x[:, :3], axis=1)


def test_explain_tells_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_lowering, "missing", lambda platform: "no reason at all")
    found = scanlib.explain(0.5, jnp.ones((4, 100)), axis=1)
    assert found.path == "JAX operations"
    assert found.notes == ("no reason at all",)
    assert not jax_sharding.UNAVAILABLE


# ---- what is asked of JAX's internals


def test_this_jax_is_as_expected() -> None:
    assert jax_probe.lost() == ()


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A JAX that does not show what an operand is taken of, met for the first time."""
    monkeypatch.setattr(jax_views, "operation", lambda value: None)
    jax_probe.lost.cache_clear()
    jax_internals.warn_once.cache_clear()
    yield
    jax_probe.lost.cache_clear()
    jax_internals.warn_once.cache_clear()


@pytest.mark.usefixtures("blind")
def test_copies_that_an_unknown_jax_costs_are_told() -> None:
    """Right values, one warning with the versions known, and the same in explain."""
    p = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (4, 30, 6)))

    def halves(p: Any) -> Any:
        return scanlib.linear_recurrence(p[..., :3], p[..., 3:], axis=1)

    with pytest.warns(RuntimeWarning, match=r"copied before .*JAX \d.*tested with 0\.9\.1") as told:
        h = jax.jit(halves)(p)
    assert len(told) == 1
    jax.jit(lambda p: halves(p) + 1)(p)  # once: warnings are errors here
    assert_trees_close(h, serial(p[..., :3], p[..., 3:], None, axis=1)[0])
    assert "copied before" in str(scanlib.explain(p, p, axis=1))


def test_probe_ignores_what_the_caller_has_set() -> None:
    jax_probe.lost.cache_clear()
    with jax.disable_jit(), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert jax_probe.lost() == ()
    found: list[Any] = []

    def traced(x: Any) -> Any:
        jax_probe.lost.cache_clear()
        found.append(jax_probe.lost())
        return x

    jax.jit(jax.vmap(jax.grad(lambda x: traced(x).sum())))(jnp.ones((2, 3)))
    assert found == [()]


def test_internals_are_asked_for_in_one_place() -> None:
    """Private modules, contexts of lowering rules and MLIR's bindings: only `internals` names them."""
    asked = re.compile(
        r"jax\._src|module_context|jaxpr_eqn_ctx|import ir\b|mlir\.ir\b|\.vma\b|jax\.Inline"
    )
    folder = pathlib.Path(adapter.__file__).parent
    named = [path.name for path in folder.glob("*.py") if asked.search(path.read_text())]
    assert named == ["internals.py"]


def test_primitives_take_any_size_one() -> None:
    """The rule behind vmap and zeros that are not stored: extent 1 on any axis of any operand."""
    rng = rng_for("size one")
    full, axis = (2, 3, 4), 1
    sides = list(itertools.product(*[(1, n) for n in full]))
    for a_shape, x_shape, h_shape in zip(
        sides, sides[3:] + sides[:3], sides[5:] + sides[:5], strict=True
    ):
        a, x, h = (jnp.asarray(normal(rng, s, "float64")) for s in (a_shape, x_shape, h_shape))
        shape = np.broadcast_shapes(a_shape, x_shape, h_shape)
        state = jnp.asarray(normal(rng, state_shape(h_shape, axis), "float64"))
        options = {"axis": axis, "reverse": False, "native": True}
        summed = reduced_axes(a_shape, shape)
        found = jax_primitives.backward(
            a, h, x, state, state, x_dtype=a.dtype, summed=summed, **options
        )
        wide = [jnp.broadcast_to(v, shape) for v in (a, h, x)]
        expected = by_scan.backward_by_scan(
            *wide, state, state, x_dtype=a.dtype, summed=summed, has_h0=True, **options
        )
        assert_trees_close(found, expected)
