"""Programs in JAX of sequences that start inside the time axis: their calls, export, and what handlers refuse."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest

import scanlib
from scanlib import native

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    assert_trees_close,
    custom_calls,
    handlers,  # noqa: F401, a fixture of every test
    scan,
    weighted,
)
from jax_segment_cases import CASES, Case, both  # noqa: E402

from scanlib import jax_export  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402
from scanlib.roles import NUMBERS  # noqa: E402


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
