"""Operands that are slices, transposes, flips or broadcasts of something: read in place in a compiled JAX program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import recurrence

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

import scanlib  # noqa: E402
from scanlib import jax_export  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402

scan = functools.partial(scanlib.linear_recurrence, axis=1)

#: name -> (function of an array of shape (3, 20, 8) that gives (a, x, h0), how many operands are it or views of it)
CASES: dict[str, tuple[Callable[[Any], tuple[Any, Any, Any]], int]] = {
    "halves": (lambda p: (p[..., :4], p[..., 4:], None), 2),
    "steps": (lambda p: (p[:, ::2, 1::3], p[:, 1::2, ::3], None), 2),
    "the first and the last": (lambda p: (p[:2], p[1:], None), 2),
    "transposed": (lambda p: (p.swapaxes(0, 1), p.transpose(1, 0, 2) + 1, None), 1),
    "flipped": (lambda p: (p[:, ::-1], lax.rev(p, (0, 2)), None), 2),
    "broadcast": (lambda p: (jnp.broadcast_to(p[:1, :, :1], p.shape), p, None), 2),
    "new axis": (lambda p: (p[:, :, None, :4], p[:, :, None, 4:], None), 2),
    "state": (lambda p: (p[..., :4], p[..., 4:], p[:, 0, ::2]), 3),
    "of a product": (lambda p: (lambda q: (q[..., :4], q[..., 4:], None))(p @ jnp.eye(8)), 2),
    "all at once": (
        lambda p: (
            lax.rev(p, (1,)).swapaxes(1, 2)[:, 2:6, ::2],
            p.swapaxes(1, 2)[:, :4, 10:],
            None,
        ),
        2,
    ),
}


def projection(dtype: Any = jnp.float64) -> Any:
    values = np.random.default_rng(0).uniform(0.1, 0.9, (3, 20, 8))
    return jnp.asarray(values, dtype)


def custom_call(program: Any) -> str:
    """The line of a lowered program that calls libscanlib."""
    (line,) = (line for line in program.as_text().splitlines() if "custom_call @scanlib_" in line)
    return line


@pytest.mark.parametrize("name", CASES)
def test_views_are_read_in_place(name: str) -> None:
    """The result of the copies, without any."""
    operands, count = CASES[name]
    p = projection()
    a, x, h0 = operands(p)
    jitted = jax.jit(lambda p: scan(*operands(p)))
    expected = recurrence(*(None if v is None else np.asarray(v) for v in (a, x, h0)), axis=1)[0]
    np.testing.assert_allclose(jitted(p), expected, rtol=1e-12)
    line = custom_call(jitted.lower(p))
    arguments = line.split("custom_call @scanlib_recurrence(")[1].split(")")[0].split(", ")
    numbers = line.split("views = dense<[")[1].split("]>")[0].split(", ")
    assert len(numbers) == sum(2 + 2 * v.ndim for v in (a, x, h0) if v is not None)
    stored = arguments[0] if name == "of a product" else "%arg0"
    assert arguments.count(stored) == count


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_through_views(reverse: bool) -> None:
    """Also those of views along time, and of the residual that the gradient reads again."""
    p = projection()
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((3, 20, 4)))

    def loss(p: Any, halves: Callable[[Any], tuple[Any, Any]]) -> Any:
        return (scan(*halves(p), reverse=reverse) * weights).sum()

    def views(p: Any) -> tuple[Any, Any]:
        return p[..., :4], p[:, ::-1, 4:]

    found = jax.jit(jax.grad(functools.partial(loss, halves=views)))(p)
    expected = jax.grad(functools.partial(loss, halves=views))(p)  # one operation at a time: copies
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_is_computed_where_it_is_read_is_left_to_xla() -> None:
    """A slice of an exponential costs as many exponentials as it has elements, not as many as it was taken of."""
    jitted = jax.jit(lambda p: scan(jnp.exp(-p)[..., :1], p[..., 4:5]))
    p = projection()
    line = custom_call(jitted.lower(p))
    arguments = line.split("custom_call @scanlib_recurrence(")[1].split(")")[0].split(", ")
    assert [argument.startswith("%arg") for argument in arguments] == [False, True]
    expected = recurrence(np.exp(-np.asarray(p))[..., :1], np.asarray(p)[..., 4:5], None, axis=1)[0]
    np.testing.assert_allclose(jitted(p), expected, rtol=1e-12)


def test_dense_operands_have_no_views() -> None:
    p = projection()
    assert "views = dense<> : tensor<0xi64>" in custom_call(jax.jit(scan).lower(p, p))


def test_vmap_bfloat16_and_export() -> None:
    """An axis that vmap adds, offsets that are not multiples of a vector, a program that travels."""
    p = projection(jnp.bfloat16)
    function = jax.jit(jax.vmap(lambda p: scanlib.linear_recurrence(p[:, 1:4], p[:, 5:], axis=0)))
    dense = scan(p[..., 1:4], p[..., 5:])
    assert (function(p) == dense).all()
    exported = jax.export.export(function, disabled_checks=jax_export.CHECKS)(p)
    assert (jax.export.deserialize(exported.serialize()).call(p) == dense).all()


def test_axes_that_do_not_merge_are_read_in_place() -> None:
    shape = (2, 3) * 5
    p = jnp.asarray(np.random.default_rng(0).uniform(0, 1, shape))
    order = tuple(reversed(range(10)))

    def halves(p: Any) -> tuple[Any, Any]:
        return p.transpose(order)[..., :2, :], p.reshape(p.shape[::-1])[..., :2, :]

    jitted = jax.jit(lambda p: scanlib.linear_recurrence(*halves(p), axis=-1))
    assert "views = dense<> : tensor<0xi64>" not in custom_call(jitted.lower(p))
    expected = recurrence(*map(np.asarray, halves(p)), axis=-1)[0]
    np.testing.assert_allclose(jitted(p), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([1, 0, 20, 1, 1, 0, 20, 2], "leaves its array"),
        ([1, 0, 20, 1, 1, 19, 20, -2], "leaves its array"),
        ([1, 0, 20, 1, 1, -1, 20, 1], "leaves its array"),
        ([1, 0, 20, 1, 1, 0, 20, 2**62], "leaves its array"),
        ([1, 0, 20, 1, 1, 0, -1, 1], "leaves its array"),
        ([1, 0, 20, 1], "cannot be read"),
        ([1, 0, 20], "cannot be read"),
        ([-1, 0], "cannot be read"),
        ([1, 0, 19, 1, 1, 0, 20, 1], "does not fit"),
    ],
)
def test_the_handler_refuses_views_that_lie(views: list[int], message: str) -> None:
    assert not jax_lowering.missing("cpu")
    p = projection()[0, :, 0]
    call = jax.ffi.ffi_call(jax_lowering.TARGET, [jax.ShapeDtypeStruct(p.shape, p.dtype)])
    lists = {"roles": [0, 1, 2], "views": views, "tuning": []}
    numbers = {name: np.array(values, np.int64) for name, values in lists.items()}
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        call(p, p, axis=np.int64(0), reverse=np.bool_(False), **numbers)
