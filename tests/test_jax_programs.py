"""Programs that JAX makes of calls: their text, the handlers that run them, and the path in JAX operations."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from helpers import check_forward, check_gradients, decay, normal, rng_for

import scanlib
from scanlib import native

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    Function,
    PureJax,
    assert_trees_close,
    both_outputs,
    custom_calls,
    handlers,  # noqa: F401, a fixture of every test
    inputs,
    scan,
    serial,
    weighted,
)

from scanlib.backends.jax import internals as jax_internals  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402
from scanlib.roles import NUMBERS  # noqa: E402

# ---- programs


def equations(jaxpr: Any) -> list[Any]:
    """All equations, those of inner programs too."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                found += equations(getattr(inner, "jaxpr", inner))
    return found


def ours(function: Function, *args: Any) -> list[str]:
    return [
        e.primitive.name
        for e in equations(jax.make_jaxpr(function)(*args))
        if "scanlib" in e.primitive.name
    ]


def test_a_gradient_is_one_scan_and_one_backward() -> None:
    args = inputs((2, 4, 3), (2, 4, 3), (2, 3))
    loss = weighted(both_outputs(1))
    for wanted in ((0, 1, 2), (0,), (1,), (2,)):
        assert ours(jax.grad(loss, wanted), *args) == ["scanlib_scan", "scanlib_backward"]
    assert ours(jax.jit(jax.grad(loss)), *args) == ["scanlib_scan", "scanlib_backward"]
    assert ours(lambda *at: jax.jvp(both_outputs(1), at, at), *args) == [
        "scanlib_scan",
        "scanlib_tangent",
    ]


def test_gradient_of_the_final_state_makes_no_full_zeros() -> None:
    """What the result does not depend on goes into the kernel as one number."""
    args = inputs((2, 400, 3), (2, 400, 3), (2, 3))
    program = jax.make_jaxpr(jax.grad(lambda *at: both_outputs(1)(*at)[1].sum(), (0, 1, 2)))(*args)
    sizes = [
        v.aval.size
        for e in equations(program)
        if "scanlib" not in e.primitive.name
        for v in e.outvars
    ]
    assert max(sizes) <= 6
    for wanted in ((1,), (2,)):  # h is not kept for what is linear
        grad = jax.grad(lambda *at: both_outputs(1)(*at)[1].sum(), wanted)
        (found,) = (
            e
            for e in equations(jax.make_jaxpr(grad)(*args))
            if e.primitive.name == "scanlib_backward"
        )
        assert found.invars[1].aval.shape == (1, 1, 1)
        assert found.outvars[0].aval.shape == (1, 1, 1)


def test_nothing_is_broadcast_cast_or_transposed() -> None:
    """A per-channel float32 decay with bfloat16 values on any axis: the kernels get the arrays as they are."""
    a, x = jnp.ones((3, 1), jnp.float32), jnp.ones((2, 3, 40), jnp.bfloat16)
    loss = functools.partial(scan, axis=-1)
    (call,) = custom_calls(loss, a, x)
    assert "(tensor<1x3x1xf32>, tensor<2x3x40xbf16>) -> tensor<2x3x40xf32>" in call
    text = jax.jit(loss).lower(a, x).as_text()
    assert not re.search(r"stablehlo\.(transpose|convert|broadcast_in_dim .*2x3x40)", text)
    calls = custom_calls(jax.grad(lambda a, x: loss(a, x).sum(), (0, 1)), a, x)
    assert "-> (tensor<1x3x1xf32>, tensor<2x3x40xbf16>)" in calls[-1]
    batched = jax.vmap(functools.partial(scan, axis=0), (None, 1), 1)
    text = jax.jit(batched).lower(a[:, 0], x[..., 0].T).as_text()
    assert "stablehlo.transpose" not in text
    assert "(tensor<3x1xf32>, tensor<3x2xbf16>)" in text


def test_many_axes() -> None:
    """Axes that alternate in what they repeat, so that none merges with the next: read as they are."""
    shape = (2, 1, 2, 1, 2, 1, 2, 1, 3)
    other = (1, 2, 1, 2, 1, 2, 1, 2, 3)
    args = inputs(shape, other, other[:-1])
    found, expected = both_outputs(-1)(*args), serial(*args, axis=-1)
    assert_trees_close(found, expected)
    assert scanlib.explain(*args, axis=-1).notes == ()
    grads = (
        jax.grad(weighted(f), (0, 1, 2))(*args)
        for f in (both_outputs(-1), functools.partial(serial, axis=-1))
    )
    assert_trees_close(*grads)


def test_donation() -> None:
    a, x = jnp.full((64, 8), 0.5), jnp.ones((64, 8))
    expected = np.asarray(scan(a, x, axis=0))
    step = jax.jit(functools.partial(scan, axis=0), donate_argnums=1)
    assert np.array_equal(step(a, x), expected)
    assert x.is_deleted()


# ---- the path in JAX operations


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "complex64",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "bfloat16", "complex128")),
    ],
)
def test_pure_path_values(dtype: str) -> None:
    """Lengths that leave no steps over, few and many, against the oracle; 16-bit dtypes accumulate in float32."""
    lib = PureJax(Backend.JAX)
    lengths = ((1, False), (32, True), (33, False), (36, True), (529, False), (300, True))
    for T, reverse in lengths if dtype == "float32" else lengths[-1:]:
        rng = rng_for(T, dtype)
        a, x, h0 = (
            decay(rng, (T, 1), dtype),
            normal(rng, (2, T, 3), dtype),
            normal(rng, (2, 1), dtype),
        )
        check_forward(lib, a, x, h0, axis=1, reverse=reverse)
    check_gradients(lib, a, x, h0, axis=1, reverse=True)
    ones = jnp.ones(4000, jnp.dtype(dtype))
    assert scan(ones, ones, pure=True)[-1] == jnp.asarray(4000, ones.dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_pure_path_special_values(reverse: bool) -> None:
    """Products that overflow where the serial loop does not, and NaN and Inf that go on as there."""
    T = 300
    x = np.ones((T, 6), np.float32)
    a = np.full((T, 6), 0.5, np.float32)
    x[:, 0], a[:, 0] = 0, 1e30  # 0 for ever; the product of the decays is Inf
    x[140, 1], a[150, 1] = np.nan, 0
    x[130, 2], a[131, 2] = np.inf, -1
    a[:, 3], x[:, 3] = 1e10, 1e-30
    a[10, 4] = np.inf
    # From the last step of a chunk over the top and back: what the chunk does as a whole is finite.
    x[101, 5], a[102, 5], a[103, 5] = 3e38, 10, 1e-5
    x[198, 5], a[197, 5], a[196, 5] = 3e38, 10, 1e-5
    with np.errstate(all="ignore"):
        expected = np.empty_like(x)
        h = np.zeros(6, np.float32)
        for t in reversed(range(T)) if reverse else range(T):
            h = a[t] * h + x[t]
            expected[t] = h
    for pure in (True, False):
        # One sequence at a time: on the pure path one of them sends all to the loop.
        columns = [
            scan(jnp.asarray(a[:, [i]]), jnp.asarray(x[:, [i]]), axis=0, reverse=reverse, pure=pure)
            for i in range(x.shape[1])
        ]
        found = np.concatenate(columns, axis=1)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    zero = jnp.zeros_like(x)
    assert np.array_equal(scan(zero, jnp.asarray(x), axis=0, pure=True)[:, :1], x[:, :1])


def test_subnormal_numbers_are_kept() -> None:
    """XLA flushes them to zero on its threads; libscanlib must not, on whichever thread it runs."""
    x = np.full((4, 3), 1e-39, np.float32)
    x[2:] = 0
    h = scan(jnp.asarray(np.full_like(x, 0.5)), jnp.asarray(x), axis=0)
    assert np.array_equal(h, scanlib.linear_recurrence(np.full_like(x, 0.5), x, axis=0))
    assert np.asarray(h).all()


def test_without_handlers_jax_operations_run_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jax_lowering, "missing", lambda platform: f"there is nothing for {platform}"
    )
    jax_internals.warn_once.cache_clear()
    x = jnp.ones((7, 11))
    with pytest.warns(RuntimeWarning, match="there is nothing for cpu"):
        h = jax.jit(lambda x: scanlib.linear_recurrence(0.5, x, axis=0))(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        g = jax.jit(jax.grad(lambda x: scanlib.linear_recurrence(0.5, x, axis=0).sum()))(x)
    monkeypatch.undo()
    assert_trees_close(h, scan(0.5, x, axis=0))
    assert_trees_close(g, jax.grad(lambda x: scan(0.5, x, axis=0).sum())(x))


def test_reasons_for_the_missing_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = jax_lowering.missing.__wrapped__

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("version 9.9")

    assert "no kernels for JAX on tpu" in missing("tpu")
    with monkeypatch.context() as patch:
        patch.setattr(jax.ffi, "register_ffi_target", refuse)
        assert re.search(r"XLA FFI 0\.\d+: version 9\.9", missing("cpu"))
    with monkeypatch.context() as patch:
        patch.setitem(jax_lowering.HANDLERS, "cpu", ("no_such_symbol", "cpu"))
        assert "without XLA handlers" in missing("cpu")

    def lost() -> None:
        raise scanlib.MissingLibraryError("libscanlib was not found")

    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lost)
        assert missing("cpu") == "libscanlib was not found"


def test_handlers_refuse_what_does_not_fit() -> None:
    """Programs made by hand or by another version get an error, not a crash."""
    x = jnp.ones((3, 4))

    def call(result: Any, *operands: Any, axis: int = 0, roles: Any = (), **more: Any) -> Any:
        result = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in result]
        call = jax.ffi.ffi_call(jax_lowering.TARGET, result)
        roles = roles or [
            NUMBERS[r] for r in (*"ax"[: len(operands)], *("h", "final")[: len(result)])
        ]
        lists = {"roles": roles, "views": [], "tuning": []} | more
        numbers = {name: np.array(values, np.int64) for name, values in lists.items()}
        found = call(*operands, axis=np.int64(axis), reverse=np.bool_(False), **numbers)
        return jax.block_until_ready(found)

    assert_trees_close(call([(3, 4)], x, x)[0], scan(x, x, axis=0))
    for message, result, operands, options in [
        ("out of range", [(3, 4)], (x, x), {"axis": 2}),
        ("does not fit", [(3, 4)], (x, x[:2]), {}),
        ("does not fit", [(3, 4)], (x, x[0]), {}),
        ("does not fit", [(3, 1)], (x, x), {}),
        ("does not fit", [(3, 4), (3,)], (x, x), {}),
        ("not supported", [(3, 4)], (x.astype(int), x), {}),
        ("1 numbers of a tuning", [(3, 4)], (x, x), {"tuning": [2]}),
        ("does not accept", [(3, 4)], (x,), {}),
        (
            "does not accept",
            [(3, 4)],
            (x, x),
            {"roles": [NUMBERS[r] for r in ("a", "grad_h", "h")]},
        ),
        ("roles for 2", [(3, 4)], (x, x), {"roles": [0, 1]}),
        (f"no role {len(NUMBERS)}", [(3, 4)], (x, x), {"roles": [0, len(NUMBERS), 2]}),
        ("no role -1", [(3, 4)], (x, x), {"roles": [0, 1, -1]}),
        ("1 to 64 axes", [(3, 4)], (x, x), {"roles": [0, 1, 4]}),
    ]:
        with pytest.raises(Exception, match=message) as caught:
            call(result, *operands, **options)
        assert "INVALID_ARGUMENT" in str(caught.value)
