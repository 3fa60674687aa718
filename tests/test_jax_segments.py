"""Sequences that start inside the time axis, in JAX: what each is alone, through every transformation.

Sharded ones are in test_jax_sharding.py.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import normal, rng_for

import scanlib
from scanlib import native

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from jax_cases import (  # noqa: E402
    PURE,
    Function,
    assert_trees_close,
    handlers,  # noqa: F401, a fixture of every test
    scan,
    serial,
    weighted,
)

from scanlib import jax_export  # noqa: E402
from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402
from scanlib.backends.jax import pure as jax_pure  # noqa: E402
from scanlib.roles import NUMBERS  # noqa: E402

Shape = tuple[int, ...]


class Case(NamedTuple):
    """Shapes of a, x and h0 (None: not given), a shape of a reset or the ends of segments, and the time axis."""

    a: Shape
    x: Shape
    h0: Shape | None
    reset: Shape | None = None
    ends: tuple[int, ...] | None = None
    axis: int = 0

    def args(self, dtype: str = "float64") -> list[Any]:
        """a, x, h0 and, where sequences start by a reset, that."""
        rng = rng_for(self, dtype)
        shapes = (self.a, self.x, self.h0)
        given = [None if s is None else jnp.asarray(normal(rng, s, dtype)) for s in shapes]
        if self.reset is not None:
            reset = np.asarray(rng.random(self.reset) < 0.3)
            if reset.size > 1:  # in both directions the first step of some
                reset.flat[0] = reset.flat[-1] = True
            given.append(jnp.asarray(reset))
        return given

    def run(self, *args: Any, reverse: bool = False, pure: bool = False) -> Any:
        """Both outputs."""
        a, x, h0, *reset = args
        starts = {"reset": reset[0]} if reset else {"offsets": list(self.ends or ())}
        options = {"axis": self.axis, "reverse": reverse, "return_final": True, "pure": pure}
        return scan(a, x, h0, **starts, **options)

    def alone(self, *args: Any, reverse: bool = False) -> Any:
        """The same of each sequence alone, by jax.lax.scan."""
        a, x, h0, *reset = args
        shape = jnp.broadcast_shapes(a.shape, x.shape)
        axis = self.axis % len(shape)
        if reset:
            return with_reset(a, x, h0, reset[0], axis, reverse)
        a, x = (jnp.moveaxis(jnp.broadcast_to(v, shape), axis, 0) for v in (a, x))
        ends = self.ends or ()
        states = None
        if h0 is not None:
            full = (*shape[:axis], len(ends) - 1, *shape[axis + 1 :])
            states = jnp.moveaxis(jnp.broadcast_to(h0, full), axis, 0)
        found = [
            serial(a[i:j], x[i:j], None if states is None else states[n], reverse=reverse)
            for n, (i, j) in enumerate(itertools.pairwise(ends))
        ]
        h = jnp.concatenate([h for h, _ in found]) if found else x
        final = jnp.stack([final for _, final in found]) if found else x
        return jnp.moveaxis(h, 0, axis), jnp.moveaxis(final, 0, axis)


def with_reset(a: Any, x: Any, h0: Any, reset: Any, axis: int, reverse: bool) -> tuple[Any, Any]:
    shape = jnp.broadcast_shapes(a.shape, x.shape)
    a, x, reset = (jnp.moveaxis(jnp.broadcast_to(v, shape), axis, 0) for v in (a, x, reset))
    start = jnp.broadcast_to(0.0 if h0 is None else h0, x.shape[1:]).astype(x.dtype)

    def step(h: Any, now: Any) -> Any:
        a, x, starts = now
        h = jnp.where(starts, x, a * h + x)
        return h, h

    final, h = lax.scan(step, start, (a, x, reset), reverse=reverse)
    return jnp.moveaxis(h, 0, axis), final


CASES = {
    "reset": Case((2, 12, 3), (2, 12, 3), (2, 3), reset=(2, 12, 1), axis=1),
    "reset-long": Case((2, 40, 3), (2, 40, 3), (2, 3), reset=(2, 40, 1), axis=1),
    "reset-of-channels": Case((3,), (2, 40, 3), None, reset=(40, 3), axis=1),
    "reset-of-all-steps": Case((5, 1), (5, 2), (2,), reset=()),
    "reset-scalar-a": Case((), (5, 3), (), reset=(5, 1)),
    "reset-x-broadcast": Case((40, 2, 3), (40, 1, 1), (2, 1), reset=(40, 1, 1)),
    "reset-one-step": Case((2, 1), (2, 1), (2,), reset=(1,), axis=-1),
    "reset-no-steps": Case((0, 3), (0, 3), (3,), reset=(1, 1)),
    "offsets": Case((2, 12, 3), (2, 12, 3), (2, 5, 3), ends=(0, 0, 3, 10, 12, 12), axis=1),
    "offsets-long": Case((2, 40, 3), (2, 40, 3), (2, 5, 3), ends=(0, 0, 3, 30, 40, 40), axis=1),
    "offsets-vector": Case((7,), (7,), (4,), ends=(0, 2, 2, 3, 7)),
    "offsets-no-h0": Case((40, 1), (40, 3), None, ends=(0, 1, 1, 1, 33, 40)),
    "offsets-shared-h0": Case((3,), (2, 6, 3), (1, 3), ends=(0, 4, 4, 6), axis=1),
    "offsets-scalar-a": Case((), (3, 6), (2,), ends=(0, 5, 6), axis=-1),
    "offsets-one": Case((2, 6), (2, 6), (2, 1), ends=(0, 6), axis=1),
    "offsets-one-step": Case((1, 2), (1, 2), (3, 2), ends=(0, 0, 1, 1)),
    "offsets-no-steps": Case((0, 2), (0, 2), (2, 2), ends=(0, 0, 0)),
    "offsets-none": Case((0, 2), (0, 2), (0, 2), ends=(0,)),
}
#: Those that stand for all others; longer ones the path in JAX operations cuts into chunks.
SHORT, LONG = ("reset", "offsets"), ("reset-long", "offsets-long")
both = pytest.mark.parametrize("case", [CASES[name] for name in SHORT], ids=SHORT)
both_long = pytest.mark.parametrize("case", [CASES[name] for name in LONG], ids=LONG)
pures = pytest.mark.parametrize("pure", PURE)


def wanted(args: list[Any]) -> tuple[int, ...]:
    return tuple(i for i, arg in enumerate(args[:3]) if arg is not None)


# ---- values and derivatives


@pytest.mark.parametrize(
    ("name", "pure"),
    [
        pytest.param(name, pure, marks=[pytest.mark.slow] if pure and name not in LONG else [])
        for name, pure in itertools.product(CASES, (False, True))
    ],
)
def test_each_sequence_is_what_it_is_alone(name: str, pure: bool) -> None:
    """Both outputs, and the gradients of both in a, x and h0."""
    case = CASES[name]
    args = case.args()
    for reverse in (False, True) if name in (*SHORT, *LONG) else (pure,):
        run = functools.partial(case.run, reverse=reverse, pure=pure)
        alone = functools.partial(case.alone, reverse=reverse)
        found, grads = jax.jit(lambda *at, f=run: (f(*at), gradient(f, at)))(*args)
        expected, expected_grads = jax.jit(lambda *at, f=alone: (f(*at), gradient(f, at)))(*args)
        assert_trees_close(found, expected)
        assert_trees_close(grads, expected_grads)
        for grad, i in zip(grads, wanted(args), strict=True):
            assert (grad.shape, grad.dtype) == (args[i].shape, args[i].dtype)


def gradient(function: Function, args: Any) -> Any:
    return jax.grad(weighted(function), wanted(args))(*args)


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


# ---- what never crosses


@pures
@both_long
def test_what_is_not_finite_stays_in_its_sequence(case: Case, pure: bool) -> None:
    """NaN and Inf in a, x, h0 and in what comes back; a reset's grad_a is 0 whatever meets there."""
    a, x, h0, *rest = (np.array(arg) for arg in case.args("float32"))
    T = a.shape[1]
    if rest:
        rest[0][:] = (np.arange(T) % 10 == 0).reshape(1, T, 1)
    ends = list(range(0, T + 1, 10)) if rest else list(case.ends or ())
    for reverse in (True,) if pure else (False, True):
        for bad in (np.nan,) if pure else (np.nan, np.inf):
            sick = x.copy()
            sick[:, 12, 0], sick[:, 14, 1] = bad, -bad
            decay = a.copy()
            # A coefficient into a step that resets, and one inside.
            decay[:, 20 if not reverse else 19, 2], decay[:, 13, 2] = bad, bad
            if not rest:
                decay[:, 20 if not reverse else 19, 2] = 0.5
            starts = rest
            if rest and reverse:
                starts = [np.roll(rest[0], -1, 1)]
            args = [jnp.asarray(v) for v in (decay, sick, h0, *starts)]
            run = functools.partial(case.run, reverse=reverse, pure=pure)
            h, final = jax.jit(run)(*args)
            first, last = next((i, j) for i, j in itertools.pairwise(ends) if i <= 13 < j)
            inside = np.zeros(T, bool)
            inside[first:last] = True
            assert np.isfinite(h[:, ~inside]).all()
            assert not np.isfinite(h[:, inside]).all(axis=(0, 1)).any()
            if rest:
                assert np.isfinite(final).all()

            def loss(*at: Any, run: Function = run, bad: float = bad) -> Any:
                h, final = run(*at)
                # What comes back is not finite where h is, and at step 15.
                return (h * jnp.ones(T).at[15].set(bad)[:, None]).sum() + final.sum()

            grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*args)
            for grad in grads[:2]:
                assert np.isfinite(grad[:, ~inside]).all()
            assert not np.isfinite(grads[1][:, inside]).all()
            if rest:
                assert np.isfinite(grads[2]).all()
                assert (np.asarray(grads[0])[np.broadcast_to(starts[0], a.shape)] == 0).all()


def test_grad_a_is_zero_where_both_factors_are_not_finite() -> None:
    """In the sum over what a repeated a meets, too: Inf * 0 is no 0."""
    x = jnp.ones((8, 1)).at[3].set(jnp.inf)
    reset = jnp.zeros((8, 1), bool).at[4].set(True)
    for pure in (False, True):
        for shape in ((8, 1), (1, 1)):
            a = jnp.full(shape, 0.5)
            run = functools.partial(scan, axis=0, pure=pure)
            h = run(a, x, reset=reset)
            grad_h = jnp.zeros((8, 1)).at[4].set(jnp.inf)
            grad_a, grad_x, _ = adapter.linear_recurrence_vjp(
                grad_h, a, h, None, 0, False, None, reset, pure=pure
            )
            assert (grad_a == 0).all()
            assert_trees_close(grad_x, grad_h)
            tangent = jax.jvp(lambda a, x=x, run=run: run(a, x, reset=reset), (a,), (a * jnp.inf,))
            assert not jnp.isnan(tangent[1][4]).any()


def test_chunks_forget_what_came_before_a_start() -> None:
    """Of the pure path: no map of a chunk makes NaN of an infinite decay, which would send all to the loop."""
    a = jnp.full((3, 4, 1), 2.0).at[1, 0].set(jnp.inf).at[1, 3].set(jnp.nan)
    starts = jnp.zeros((3, 4, 1), bool).at[1, 3].set(True)
    maps = jax_pure._reduce(a, jnp.ones_like(a), starts, 1, False)
    assert list(np.ravel(maps[3])) == [False, True, False]
    squeezed = [part[:, 0] for part in maps]
    after, last = jax_pure._chain(*squeezed, jnp.full((1, 1), jnp.inf).at[0].set(1.0), 0, False)
    assert list(np.ravel(after)) == [31.0, 1.0, 31.0]
    assert float(last[0, 0]) == 31


@pytest.mark.parametrize("T", [33, 36, pytest.param(529, marks=pytest.mark.slow)])
def test_pure_path_cut_at_any_step(T: int) -> None:
    """Starts at, before and after the ends of chunks, of lengths that leave steps over and that do not."""
    rng = rng_for(T)
    case = Case((T, 1), (T, 2), (2,), reset=(T, 1))
    a, x, h0, _ = case.args()
    run = jax.jit(functools.partial(case.run, pure=True), static_argnames="reverse")
    alone = jax.jit(case.alone, static_argnames="reverse")
    for share in (0.0, 0.05, 0.5, 1.0):
        reset = jnp.asarray(rng.random((T, 1)) < share)
        for reverse in (False, True):
            args = (a, x, h0, reset)
            assert_trees_close(run(*args, reverse=reverse), alone(*args, reverse=reverse))


# ---- vmap, jit, dtypes


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


@pytest.mark.parametrize(
    ("dtype", "pure"),
    [
        pytest.param(dtype, pure, marks=[] if (dtype, pure) in everyday else [pytest.mark.slow])
        for everyday in [{("bfloat16", False), ("bfloat16", True), ("complex64", False)}]
        for dtype, pure in itertools.product(("float16", "bfloat16", "complex64"), (False, True))
    ],
)
@both
def test_dtypes(case: Case, dtype: str, pure: bool) -> None:
    """Computed as wide as without, and of the same dtype: what says where sequences start has no say in it."""
    args = case._replace(a=(3,)).args(dtype)
    wide = [
        v if v.dtype == bool else v.astype("complex128" if dtype == "complex64" else "float64")
        for v in args
    ]
    args[0], wide[0] = args[0] * 0.25, wide[0] * 0.25
    found = jax.jit(functools.partial(case.run, pure=pure))(*args)
    expected = jax.jit(case.alone)(*wide)
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "complex64": 1e-5}[dtype]
    for part, of_wide in zip(found, expected, strict=True):
        assert part.dtype == dtype
        np.testing.assert_allclose(
            part.astype(of_wide.dtype), of_wide, rtol=tolerance, atol=tolerance
        )
    loss = weighted(functools.partial(case.run, pure=pure))
    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*args)
    assert [grad.dtype for grad in grads] == [dtype] * 3
    expected_grads = jax.jit(jax.grad(weighted(case.alone), (0, 1, 2)))(*wide)
    for part, of_wide in zip(grads, expected_grads, strict=True):
        size = np.abs(of_wide).max()
        np.testing.assert_allclose(
            part.astype(of_wide.dtype) / size, of_wide / size, atol=4 * tolerance
        )


# ---- what is refused


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


# ---- programs


def custom_calls(function: Function, *args: Any) -> list[str]:
    text = jax.jit(function).lower(*args).as_text()
    return [line for line in text.splitlines() if "custom_call @scanlib" in line]


def test_programs() -> None:
    """A reset is never made larger, a view of one is read in place, and a gradient is one scan and one backward."""
    a, x, h0, reset = CASES["reset"].args("float32")
    calls = custom_calls(jax.grad(weighted(CASES["reset"].run), (0, 1, 2)), a, x, h0, reset)
    assert len(calls) == 2
    assert all("tensor<2x12x1xi1>" in call for call in calls)
    wide = jnp.concatenate([reset] * 4, 2)
    run = functools.partial(scan, axis=1)

    def seen(a: Any, x: Any, wide: Any) -> Any:
        return run(a, x, reset=wide[:, ::-1, 2:3])

    (call,) = custom_calls(seen, a, x, wide)
    assert "tensor<2x12x4xi1>" in call
    assert_trees_close(jax.jit(seen)(a, x, wide), run(a, x, reset=reset[:, ::-1]))
    ends = jnp.array([7, 0, 3, 9, 9, 10, 12])

    def packed(a: Any, x: Any, ends: Any) -> Any:
        return run(a, x, offsets=ends[1::1])

    (call,) = custom_calls(packed, a, x, ends)
    assert "tensor<7xi64>" in call
    assert_trees_close(jax.jit(packed)(a, x, ends), run(a, x, offsets=ends[1:]))


@both
def test_exported(case: Case) -> None:
    """With both orders of derivatives in it, and with a batch left open."""
    pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")
    a, x, h0, *rest = case.args()
    name = "reset" if rest else "offsets"
    starts = rest[0] if rest else jnp.array(case.ends)

    def run(a: Any, x: Any, h0: Any, starts: Any) -> Any:
        return scan(a, x, h0, axis=1, return_final=True, **{name: starts})

    (batch,) = jax.export.symbolic_shape("batch")

    def loss(*at: Any) -> Any:
        h, final = run(*at)
        return (h**2).sum() + (final**3).sum()

    for function in (run, jax.grad(loss, (0, 1, 2))):
        for first in (2, batch):
            specs = [
                jax.ShapeDtypeStruct((first, *v.shape[1:]) if v.shape[0] == 2 else v.shape, v.dtype)
                for v in (a, x, h0, starts)
            ]
            made = jax.export.export(jax.jit(function), disabled_checks=jax_export.CHECKS)(*specs)
            program = jax.export.deserialize(made.serialize())
            given = (a, x, h0, starts)
            assert_trees_close(program.call(*given), function(*given))


def test_explain() -> None:
    a, x, h0, reset = CASES["reset"].args()
    found = scanlib.explain(a, x, h0, axis=1, reset=reset, backward=True)
    assert (found.path, found.notes) == ("libscanlib (cpu)", ())
    spec = jax.ShapeDtypeStruct((4,), jnp.int32)
    assert scanlib.explain(a, x, axis=1, offsets=spec).path == "libscanlib (cpu)"
    given = {"a": a, "x": x, "h": x, "offsets": spec}
    problem = jax_lowering.problem_of(x.shape, 1, given)
    assert native._Problem.from_buffer_copy(problem).segments == 3


def test_handlers_refuse_what_does_not_fit() -> None:
    x, ends = jnp.ones((3, 4)), jnp.array([0, 1, 3])

    def call(roles: str, *operands: Any, results: Any = ((3, 4),)) -> Any:
        made = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in results]
        lists = {"roles": [NUMBERS[role] for role in roles.split()], "views": [], "tuning": []}
        numbers = {name: np.array(values, np.int64) for name, values in lists.items()}
        run = jax.ffi.ffi_call(jax_lowering.TARGET, made)
        return jax.block_until_ready(
            run(*operands, axis=np.int64(0), reverse=np.bool_(False), **numbers)
        )

    packed = "a x h0 offsets h final"
    state, both_shapes = jnp.ones((2, 4)), ((3, 4), (2, 4))
    expected = scan(x, x, state, axis=0, offsets=ends, return_final=True)
    assert_trees_close(call(packed, x, x, state, ends, results=both_shapes), list(expected))
    for message, roles, operands, results in [
        ("a has a dtype that is not supported", "a x h", (x > 0, x), None),
        ("reset has a dtype that is not supported", "a x reset h", (x, x, x.astype(int)), None),
        ("does not accept", "a x reset h", (x, x, x), None),
        ("does not fit", "a x reset h", (x, x, x[:2] > 0), None),
        ("offsets has a dtype that is not supported", "a x offsets h", (x, x, x[:, 0] > 0), None),
        ("does not accept", "a x offsets h", (x, x, x[:, 0]), None),
        ("does not fit", "a x offsets h", (x, x, ends[None]), None),
        ("does not accept", "a x offsets h", (x, x, ends[:0]), None),
        ("does not accept", "a x reset offsets h", (x, x, x > 0, ends), None),
        ("2 segments", packed, (x, x, jnp.ones((3, 4)), ends), both_shapes),
        ("2 segments", packed, (x, x, jnp.ones(4), ends), both_shapes),
        ("2 segments", packed, (x, x, state, ends), ((3, 4), (3, 4))),
        ("2 segments", packed, (x, x, state, ends), ((3, 4), (1, 4))),
        ("offsets must begin at 0", packed, (x, x, state, ends + 1), both_shapes),
    ]:
        with pytest.raises(Exception, match=re.escape(message)) as caught:
            call(roles, *operands, results=results or ((3, 4),))
        assert "INVALID_ARGUMENT" in str(caught.value)
