"""Derivatives through the recurrence in JAX, of every order, in both modes, under vmap, remat and linearize.

First gradients of all dtypes are in the matrix's own tests, which JAX runs eagerly and jitted.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
from helpers import normal, rng_for

import scanlib

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from jax.test_util import check_grads  # noqa: E402
from jax_cases import (  # noqa: E402
    CASES,
    PURE,
    Function,
    assert_trees_close,
    both_outputs,
    handlers,  # noqa: F401, a fixture of every test
    inputs,
    scan,
    serial,
    weighted,
)

from scanlib.backends import jax as adapter  # noqa: E402

# ---- gradients


@pytest.mark.parametrize("pure", PURE)
@pytest.mark.parametrize(("a", "x", "h0", "axis"), CASES)
def test_gradients_are_those_of_a_loop(a: Any, x: Any, h0: Any, axis: int, pure: bool) -> None:
    args = inputs(a, x, h0)
    wanted = tuple(i for i, arg in enumerate(args) if arg is not None)
    for reverse in (True,) if pure else (False, True):
        of_loop = weighted(functools.partial(serial, axis=axis, reverse=reverse))
        of_scan = weighted(both_outputs(axis, reverse, pure))
        found, expected = jax.grad(of_scan, wanted)(*args), jax.grad(of_loop, wanted)(*args)
        assert_trees_close(found, expected)
        for grad, i in zip(found, wanted, strict=True):
            assert (grad.shape, grad.dtype) == (args[i].shape, args[i].dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "reverse", "pure", "dtype"),
    [
        (0, False, False, "float64"),
        (2, True, False, "float64"),
        (5, False, False, "complex128"),
        (3, True, True, "float64"),
    ],
)
def test_gradients_against_differences(case: int, reverse: bool, pure: bool, dtype: str) -> None:
    """Both modes and their mixture, to third order for one case."""
    a, x, h0, axis = CASES[case].values
    run = jax.jit(both_outputs(axis, reverse, pure))
    args = [v for v in inputs(a, x, h0, dtype) if v is not None]
    check_grads(run, args, order=3 if case == 0 else 2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_third_derivatives_are_those_of_a_loop() -> None:
    """The two modes nested three deep, in a, x and h0 at once."""
    args = inputs((3,), (2, 4, 3), (2, 3))
    direction = tuple(jnp.cos(arg) for arg in args)

    def along(function: Function, mode: str) -> Function:
        if mode == "fwd":
            return lambda *at: jax.jvp(function, at, direction)[1]
        return lambda *at: sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.grad(function, (0, 1, 2))(*at), direction, strict=True)
        )

    for modes in (
        ("fwd", "rev", "rev"),
        ("rev", "fwd", "rev"),
        ("rev", "rev", "fwd"),
        ("fwd",) * 3,
    ):
        found = functools.reduce(along, modes, weighted(both_outputs(1)))
        expected = functools.reduce(along, modes, weighted(functools.partial(serial, axis=1)))
        assert_trees_close(jax.jit(found)(*args), jax.jit(expected)(*args), 1e-9)


def test_hessian_and_jacobians() -> None:
    args = inputs((4, 1), (4, 2), (2,))
    ours = weighted(both_outputs(0))
    loop = weighted(functools.partial(serial, axis=0))
    expected = jax.hessian(loop, (0, 1, 2))(*args)
    for outer, inner in ((jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd)):
        assert_trees_close(jax.jit(outer(inner(ours, (0, 1, 2)), (0, 1, 2)))(*args), expected, 1e-9)


def test_complex_gradients_are_not_conjugated() -> None:
    """JAX's convention: for a holomorphic function the gradient is the derivative itself."""
    a, x = jnp.array([0.5 + 1j, 2 - 1j]), jnp.array([1 + 2j, 3 - 1j])
    grads = jax.grad(lambda a, x: scan(a, x)[-1], (0, 1), holomorphic=True)(a, x)
    assert_trees_close(grads, (jnp.array([0, x[0]]), jnp.array([a[1], 1])))
    h = scan(a, x)
    assert_trees_close(scanlib.linear_recurrence_vjp(jnp.array([0j, 1]), a, h)[:2], grads)


@pytest.mark.parametrize("pure", PURE)
def test_real_decay_of_complex_values(pure: bool) -> None:
    """The gradient of a real operand is real; of a complex one with a real partner, complex."""
    rng = rng_for("mixed")
    real, state = normal(rng, (3, 4), "float64"), normal(rng, (4,), "float64")
    values = normal(rng, (3, 4), "complex128")
    for a, x in ((real, values), (values, real)):
        args = [jnp.asarray(v) for v in (a, x, state)]
        found = jax.grad(weighted(both_outputs(0, pure=pure)), (0, 1, 2))(*args)
        expected = jax.grad(weighted(functools.partial(serial, axis=0)), (0, 1, 2))(*args)
        assert_trees_close(found, expected)
        assert [grad.dtype for grad in found] == [arg.dtype for arg in args]


@pytest.mark.parametrize("pure", PURE)
def test_vjp_function_is_jax_vjp(pure: bool) -> None:
    for case in (2, 5, 6, 9):
        a_shape, x_shape, h0_shape, axis = CASES[case].values
        a, x, h0 = inputs(a_shape, x_shape, h0_shape, "complex128")
        for reverse in (False, True) if case == 2 else (True,):
            (h, final), pullback = jax.vjp(
                both_outputs(axis, reverse), a, jnp.broadcast_to(x, x_shape), h0
            )
            grad_h, grad_final = jnp.sin(h), jnp.cos(final)
            found = adapter.linear_recurrence_vjp(
                grad_h, a, h, h0, axis, reverse, grad_final, pure=pure
            )
            expected = pullback((grad_h, grad_final))
            if x.shape != h.shape:
                found = (found[0], found[1].sum(0, keepdims=True), found[2])
            assert_trees_close(found, expected)
            alone = adapter.linear_recurrence_vjp(
                grad_h, a, h, None, axis, reverse, None, pure=pure
            )
            assert alone[2] is None
    a, x = jnp.full((3, 2), 0.5), jnp.ones((3, 2))
    grad_a, _, _ = scanlib.linear_recurrence_vjp(x, 0.5, scan(a, x, axis=0), axis=0)
    assert_trees_close(
        grad_a, scanlib.linear_recurrence_vjp(x, a, scan(a, x, axis=0), axis=0)[0].sum()
    )


def test_linear_in_x_transposes_twice() -> None:
    a, x, h0 = inputs((4, 1), (4, 3), (3,))
    for reverse in (False, True):
        forward = functools.partial(both_outputs(0, reverse), a)
        h, final = forward(x, h0)
        g, g_final = jnp.sin(h), jnp.cos(final)
        back = jax.linear_transpose(forward, x, h0)
        assert_trees_close(back((g, g_final)), jax.vjp(forward, x, h0)[1]((g, g_final)))
        again = jax.linear_transpose(back, (h, final))
        assert_trees_close(again(back((g, g_final)))[0], forward(*back((g, g_final))))
    with pytest.raises(NotImplementedError, match="linear in x"):
        jax.linear_transpose(lambda a: scan(a, x, axis=0), a)(x)


def test_linearize_remat_and_scan_around() -> None:
    args = inputs((3,), (4, 3), (3,))
    run = both_outputs(0)
    value, pushforward = jax.linearize(run, *args)
    tangents = [jnp.cos(arg) for arg in args]
    assert_trees_close((value, pushforward(*tangents)), jax.jvp(run, args, tangents))
    expected = jax.grad(weighted(run), (0, 1, 2))(*args)
    assert_trees_close(jax.grad(weighted(jax.checkpoint(run)), (0, 1, 2))(*args), expected)

    def layers(a: Any, x: Any, h0: Any, run: Function) -> Any:
        def layer(x: Any, a: Any) -> Any:
            h, final = run(a, x, h0)
            return jnp.tanh(h), final

        return lax.scan(layer, x, jnp.stack([a, a / 2, -a]))

    nested = jax.grad(weighted(functools.partial(layers, run=run)), (0, 1, 2))(*args)
    loop = functools.partial(serial, axis=0)
    assert_trees_close(
        nested, jax.grad(weighted(functools.partial(layers, run=loop)), (0, 1, 2))(*args)
    )


def test_without_jit() -> None:
    args = inputs((3,), (4, 3), (3,))
    loss = weighted(both_outputs(0))
    expected = jax.grad(loss, (0, 1, 2))(*args)
    with jax.disable_jit():
        assert_trees_close(jax.grad(loss, (0, 1, 2))(*args), expected)


# ---- vmap


@pytest.mark.parametrize(
    "in_axes",
    [(0, 0, 0), (None, 0, 0), (2, 1, 1), (0, None, None), (None, 2, None), (None, None, 0)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_vmap_is_a_loop(in_axes: tuple[int | None, ...], reverse: bool) -> None:
    """Of the function, its gradient and its forward derivative, with some operands shared by the batch."""
    shapes = ((3,), (4, 3), (3,)) if in_axes[0] != 2 else ((4, 3), (4, 3), (3,))
    batch = 3
    args = [
        v if at is None else jnp.stack([v * (1 + i) / 2 for i in range(batch)], at)
        for v, at in zip(inputs(*shapes), in_axes, strict=True)
    ]

    def one(i: int) -> list[Any]:
        return [
            v if at is None else jnp.take(v, i, at) for v, at in zip(args, in_axes, strict=True)
        ]

    run = both_outputs(0, reverse)
    for function in (run, jax.grad(weighted(run), (0, 1, 2)), lambda *at: jax.jvp(run, at, at)[1]):
        expected = [function(*one(i)) for i in range(batch)]
        found = jax.vmap(function, in_axes)(*args)
        assert_trees_close(found, jax.tree.map(lambda *parts: jnp.stack(parts), *expected))


def test_vmap_nests() -> None:
    """Two batches, the inner one in the middle of x, a shared by the outer one."""
    (x,), a = inputs((2, 5, 4, 3), None, None)[:1], inputs((4,), None, None)[0]
    run = both_outputs(0)
    found = jax.vmap(jax.vmap(run, (0, 1, None)), (None, 0, None))(a, x, None)
    assert found[0].shape == (2, 4, 5, 3)
    for i, j in itertools.product(range(2), range(4)):
        assert_trees_close((found[0][i, j], found[1][i, j]), run(a[j], x[i, :, j], None))


@pytest.mark.parametrize("pure", PURE)
@pytest.mark.parametrize("T", [0, 4, 40])
def test_vmap_over_the_state_alone(T: int, pure: bool) -> None:
    """The one operand with a batch has no axis of time; also where the path in JAX operations cuts time into chunks."""
    a, x, h0 = inputs((T, 3), (T, 3), (2, 3))
    run = both_outputs(0, pure=pure)
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *(run(a, x, state) for state in h0))
    assert_trees_close(jax.vmap(run, (None, None, 0))(a, x, h0), expected)

    def vjp(state: Any) -> Any:
        return adapter.linear_recurrence_vjp(x, a, x, state, 0, False, None, pure=pure)

    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *map(vjp, h0))
    assert_trees_close(jax.vmap(vjp)(h0), expected)
