"""Derivatives in JAX of sequences that start inside the time axis: second ones, transposes, vmap, the vjp function."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    Function,
    assert_trees_close,
    handlers,  # noqa: F401, a fixture of every test
    scan,
    weighted,
)
from jax_segment_cases import CASES, Case, both, gradient, pures  # noqa: E402

from scanlib.backends import jax as adapter  # noqa: E402


@pytest.mark.parametrize(
    "pure", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["native", "pure"]
)
@both
def test_second_derivatives(case: Case, pure: bool) -> None:
    """Both modes over both modes, in a, x and h0 at once, and the transposes of transposes."""
    args = tuple(case.args())
    given, rest = args[:3], args[3:]
    direction = tuple(jnp.cos(arg) for arg in given)

    def seconds(function: Function) -> Any:
        loss = weighted(lambda *at: function(*at, *rest))
        grads = jax.grad(loss, (0, 1, 2))

        def slope(*at: Any) -> Any:
            return jax.jvp(loss, at, direction)[1]

        return (
            jax.jvp(grads, given, direction)[1],
            jax.grad(slope, (0, 1, 2))(*given),
            jax.jvp(slope, given, direction)[1],
            jax.grad(lambda *at: sum((g**2).sum() for g in grads(*at)), (0, 1, 2))(*given),
        )

    reverse = pure
    found = jax.jit(lambda: seconds(functools.partial(case.run, reverse=reverse, pure=pure)))()
    expected = jax.jit(lambda: seconds(functools.partial(case.alone, reverse=reverse)))()
    assert_trees_close(found, expected, 1e-9)


@both
def test_linear_maps_and_their_transposes(case: Case) -> None:
    args = case.args()
    a, x, h0, *rest = args
    loss, tangents = weighted(case.run), [jnp.cos(arg) for arg in args[:3]]
    zero = [np.zeros(arg.shape, jax.dtypes.float0) for arg in rest]
    expected = jax.jvp(case.alone, args, [*tangents, *zero])
    assert_trees_close(jax.jvp(case.run, args, [*tangents, *zero]), expected)
    value, pushforward = jax.linearize(lambda *at: case.run(*at, *rest), *args[:3])
    assert_trees_close((value, pushforward(*tangents)), expected)

    def forward(x: Any, h0: Any) -> Any:
        return case.run(a, x, h0, *rest)

    h, final = forward(x, h0)
    back = jax.linear_transpose(forward, x, h0)
    assert_trees_close(back((h, final)), jax.vjp(forward, x, h0)[1]((h, final)))
    again = jax.linear_transpose(back, (h, final))
    assert_trees_close(again(back((h, final)))[0], forward(*back((h, final))))
    expected = gradient(case.run, args)
    assert_trees_close(jax.grad(jax.checkpoint(loss), (0, 1, 2))(*args), expected)
    with jax.disable_jit():
        assert_trees_close(gradient(case.run, args), expected)
    if rest:
        last = jax.grad(loss, 3, allow_int=True)(*args)
        assert (last.shape, last.dtype) == (rest[0].shape, jax.dtypes.float0)


@pytest.mark.slow
@pures
@pytest.mark.parametrize("name", ["reset-scalar-a", "offsets-shared-h0"])
def test_hessians(name: str, pure: bool) -> None:
    case = CASES[name]
    a, x, h0, *rest = case.args()

    def hessian(function: Function, *modes: Function) -> Any:
        loss = weighted(lambda *at: function(*at, *rest))
        return jax.jit(modes[0](modes[1](loss, (0, 1, 2)), (0, 1, 2)))(a, x, h0)

    expected = hessian(case.alone, jax.jacfwd, jax.jacrev)
    for modes in ((jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacrev)):
        found = hessian(functools.partial(case.run, pure=pure), *modes)
        assert_trees_close(found, expected, 1e-9)


@pures
@pytest.mark.parametrize("name", ["reset", "reset-scalar-a", "offsets", "offsets-shared-h0"])
def test_vjp_function_is_jax_vjp(name: str, pure: bool) -> None:
    case = CASES[name]
    a, x, h0, *reset = case.args("complex128")
    starts = (reset[0], None) if reset else (None, np.array(case.ends))
    run = functools.partial(case.run, reverse=True)
    (h, final), pullback = jax.vjp(lambda *at: run(*at, *reset), a, x, h0)
    grads = jnp.sin(h), jnp.cos(final)
    found = adapter.linear_recurrence_vjp(
        grads[0], a, h, h0, case.axis, True, grads[1], *starts, pure=pure
    )
    assert_trees_close(found, pullback(grads))
    alone = adapter.linear_recurrence_vjp(
        grads[0], a, h, None, case.axis, True, None, *starts, pure=pure
    )
    assert alone[2] is None


@pytest.mark.parametrize(
    ("name", "in_axes", "pure"),
    [
        pytest.param(*case, pure, marks=[] if pure in everyday else [pytest.mark.slow])
        for *case, everyday in (
            ("reset", (None, None, None, 0), (False, True)),
            ("reset", (None, None, 0, None), (True,)),
            ("reset", (2, 3, 1, 3), (False,)),
            ("offsets", (None, None, None, 0), (False,)),
            ("offsets", (None, None, 2, None), (True,)),
            ("offsets", (2, 3, 1, None), (False,)),
            ("offsets", (None, 2, 1, 0), ()),
        )
        for pure in (False, True)
    ],
)
def test_vmap_is_a_loop(name: str, in_axes: tuple[int | None, ...], pure: bool) -> None:
    """Of the function, its gradient and its forward derivative."""
    case = CASES[name]
    batch = 3
    *numbers, last = [*case.args(), *([] if name == "reset" else [jnp.array(case.ends)])]
    args = [
        v if at is None else jnp.stack([v * (1 + i) / 2 for i in range(batch)], at)
        for v, at in zip(numbers, in_axes, strict=False)
    ]
    if name == "reset":
        others = [jnp.roll(last, i, 1) for i in range(batch)]
    else:
        others = [
            jnp.array(ends) for ends in (case.ends, (0, 1, 2, 3, 4, 12), (0, 0, 0, 0, 12, 12))
        ]
    args.append(last if in_axes[3] is None else jnp.stack(others, in_axes[3]))

    def run(a: Any, x: Any, h0: Any, starts: Any) -> Any:
        given = {name: starts, "axis": 1, "return_final": True, "pure": pure}
        return scan(a, x, h0, reverse=True, **given)

    def all_of(*at: Any) -> Any:
        def free(*numbers: Any) -> Any:
            return run(*numbers, at[3])

        grads = jax.grad(weighted(run), (0, 1, 2))(*at)
        return run(*at), grads, jax.jvp(free, at[:3], at[:3])[1]

    found = jax.jit(jax.vmap(all_of, in_axes))(*args)
    one = jax.jit(all_of)
    for i in range(batch):
        at = [v if at is None else jnp.take(v, i, at) for v, at in zip(args, in_axes, strict=True)]
        assert_trees_close(jax.tree.map(lambda part, i=i: part[i], found), one(*at))
