"""JAX arrays sharded over devices: right values, and no operand gathered on a device that has no need of it.

Those with sequences that start inside the time axis are in test_jax_sharding_segments.py.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest

import scanlib

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, PartitionSpec  # noqa: E402
from jax_sharded import (  # noqa: E402
    B,
    check,
    close,
    compiled,
    grads_of,
    loss,
    main,
    mesh,
    outcomes,
    put,
    run,
    values,
)

from scanlib import jax_export  # noqa: E402
from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import sharding as jax_sharding  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "batch_sharded",
        "broadcast_decay_is_added_up",
        "sixteen_bit_parts_are_added_in_float32",
        "two_mesh_axes",
        "sharded_time_is_gathered",
        "uneven_shards",
        "transformations",
        "without_the_partitioner",
        "exported",
        "in_shard_map",
        "in_part_of_a_mesh",
        "explicit_mesh",
        "pure_path",
        "different_devices",
    ],
)
def test_on_four_devices(name: str) -> None:
    assert outcomes(__file__)[name] == ""


@check
def batch_sharded() -> None:
    args = [put(v, mesh(4), "i") for v in values()]
    (h, final), text = compiled(run, *args)
    assert "all-gather" not in text
    assert h.sharding.spec[0] == final.sharding.spec[0] == "i"
    found, text = compiled(grads_of(loss), *args)
    assert "all-gather" not in text
    assert "all-reduce" not in text
    assert [grad.sharding.spec[0] for grad in found] == ["i"] * 3
    _, text = compiled(lambda a, x, h0: jax.jvp(run, (a, x, h0), (x, a, h0)), *args)
    assert "all-gather" not in text


@check
def broadcast_decay_is_added_up() -> None:
    a, x, h0 = values()
    on = mesh(4)
    for decay in (a[0], a[0, :1], a[:1]):
        found, text = compiled(grads_of(loss), put(decay, on), put(x, on, "i"), put(h0, on, "i"))
        assert "all-gather" not in text
        assert "all-reduce" in text
        assert found[0].shape == decay.shape


@check
def sixteen_bit_parts_are_added_in_float32() -> None:
    on = mesh(4)
    # The parts of grad_a are 256.75, 0.5, 0.5 and 0; the first alone is 256 in bfloat16, and so then is the sum.
    firsts = jnp.array([256, 0.75, 0.5, 0, 0.5, 0, 0, 0], jnp.bfloat16)
    a, x = jnp.ones((1, 2), jnp.bfloat16), jnp.zeros((B, 2), jnp.bfloat16).at[:, 0].set(firsts)
    grad = jax.jit(jax.grad(lambda a, x: scanlib.linear_recurrence(a, x, axis=1)[:, 1].sum()))
    assert float(grad(put(a, on), put(x, on, "i"))[0, 1]) == 258


@check
def two_mesh_axes() -> None:
    a, x, h0 = values()
    on = mesh(2, 2)
    args = put(a[0], on, None, "j"), put(x, on, "i", None, "j"), put(h0, on, "i", "j")
    found, text = compiled(grads_of(loss), *args)
    assert "all-gather" not in text
    assert found[1].sharding.spec == PartitionSpec("i", None, "j")
    args = put(a, on, ("i", "j")), put(x, on, ("i", "j")), put(h0, on, ("i", "j"))
    assert "all-gather" not in compiled(grads_of(loss), *args)[1]


@check
def sharded_time_is_gathered() -> None:
    a, x, h0 = values()
    on = mesh(2, 2)
    args = put(a, on, "i", "j"), put(x, on, "i", "j"), put(h0, on, "i")
    compiled(run, *args)
    compiled(grads_of(loss), *args)
    assert "time axis is sharded" in str(scanlib.explain(*args, axis=1))
    assert not scanlib.explain(a, x, h0, axis=1).notes


@check
def uneven_shards() -> None:
    """A batch of six on four devices, as slicing inside of a program makes it."""
    on = mesh(4)
    args = [put(v, on, "i") for v in values()]

    def function(a: Any, x: Any, h0: Any) -> Any:
        ga, gx, gh0 = grads_of(loss)(a[0], x[:6], h0[:6])
        return ga, gx.sum(0), gh0.sum(0)

    compiled(function, *args)


@check
def transformations() -> None:
    on = mesh(4)
    a, x, h0 = values()
    args = put(a[0], on), put(x, on, "i"), put(h0, on, "i")
    batched = jax.vmap(
        lambda a, x, h0: adapter.linear_recurrence(a, x, h0, 0, True, False, None), (None, 0, 0)
    )
    assert "all-gather" not in compiled(batched, *args)[1]
    assert "all-gather" not in compiled(grads_of(jax.checkpoint(loss)), *args)[1]
    compiled(lambda *at: jax.jvp(grads_of(loss), at, at)[1], *args)


@check
def without_the_partitioner() -> None:
    """Where JAX has no such hook the values are right still, and explain tells what it costs."""
    args = [put(v, mesh(4), "i") for v in values()]
    kept, jax_sharding.UNAVAILABLE = jax_sharding.UNAVAILABLE, "there is no hook"
    try:
        assert kept == ""
        with pytest.warns(RuntimeWarning, match="there is no hook"):
            assert "all-gather" in compiled(lambda *at: run(*at)[0] + 1, *args)[1]
        assert "no hook" in str(scanlib.explain(*args, axis=1))
    finally:
        jax_sharding.UNAVAILABLE = kept


@check
def exported() -> None:
    """A program for export can take no function of this process along; in a shard_map it has no need of one."""
    a, x, _ = values()
    on, spec = mesh(4), PartitionSpec("i")
    a, x = put(a, on, "i"), put(x, on, "i")

    def function(a: Any, x: Any) -> Any:
        return scanlib.linear_recurrence(a, x, axis=1)

    mapped = jax.shard_map(function, mesh=on, in_specs=(spec, spec), out_specs=spec)
    for call, warning in ((mapped, None), (function, "cannot be partitioned")):
        with pytest.warns(RuntimeWarning, match=warning) if warning else contextlib.nullcontext():
            made = jax.export.export(jax.jit(call), disabled_checks=jax_export.CHECKS)(a, x)
        program = jax.export.deserialize(made.serialize())
        close(jax.jit(program.call)(a, x), function(a, x))


@check
def in_shard_map() -> None:
    a, x, h0 = values()
    specs = PartitionSpec(), PartitionSpec("i"), PartitionSpec("i")
    for checked in (True, False):
        for pure in (False, True):

            def local(a: Any, x: Any, h0: Any, pure: bool = pure) -> Any:
                return jax.lax.psum(loss(a, x, h0, pure), "i")

            mapped = jax.shard_map(
                local, mesh=mesh(4), in_specs=specs, out_specs=PartitionSpec(), check_vma=checked
            )
            found = jax.jit(grads_of(mapped))(a[0], x, h0)
            close(found, grads_of(loss)(a[0], x, h0))


@check
def in_part_of_a_mesh() -> None:
    """A shard_map over one axis of two: XLA gathers the other, and explain says so."""
    a, x, _ = values()
    notes = []

    def local(a: Any, x: Any) -> Any:
        notes.append(str(scanlib.explain(a, x, axis=1)))
        return scanlib.linear_recurrence(a, x, axis=1)

    on, spec = mesh(2, 2), PartitionSpec("i")
    mapped = jax.shard_map(local, mesh=on, in_specs=(spec, spec), out_specs=spec, axis_names={"i"})
    found = jax.jit(mapped)(put(a, on, "i", None, "j"), put(x, on, "i", None, "j"))
    close(found, scanlib.linear_recurrence(a, x, axis=1))
    assert "leaves mesh axes to XLA" in notes[0]


def in_explicit_mesh(pure: bool) -> None:
    on = mesh(4, kind=AxisType.Explicit)
    a, x, h0 = values()
    with jax.set_mesh(on):
        for decay, spec in ((a, ("i",)), (a[0], ())):
            args = put(decay, on, *spec), put(x, on, "i"), put(h0, on, "i")
            forward, backward = (
                functools.partial(run, pure=pure),
                grads_of(functools.partial(loss, pure=pure)),
            )
            program = jax.jit(forward).lower(*args).compile()
            assert "all-gather" not in program.as_text()
            h, final = program(*args)
            assert jax.typeof(h).sharding.spec == PartitionSpec("i", None, None)
            assert jax.typeof(final).sharding.spec == PartitionSpec("i", None)
            program = jax.jit(backward).lower(*args).compile()
            assert "all-gather" not in program.as_text()
            found = program(*args)
            assert [jax.typeof(grad).sharding for grad in found] == [
                jax.typeof(arg).sharding for arg in args
            ]
            second = jax.jit(lambda *at, backward=backward: jax.jvp(backward, at, at)[1])(*args)
        mapped = jax.jit(jax.vmap(lambda a, x: run(a[None], x[None], None, pure)[0][0], (None, 0)))(
            args[0], args[1]
        )
        with pytest.raises(scanlib.DeviceError, match="reshard"):
            run(a, put(x, on, None, "i"), None, pure)
    close((h, final), run(a[0], x, h0))
    close(found, grads_of(loss)(a[0], x, h0))
    close(second, jax.jvp(grads_of(loss), (a[0], x, h0), (a[0], x, h0))[1])
    close(mapped, scanlib.linear_recurrence(a[0], x, axis=1))


@check
def explicit_mesh() -> None:
    in_explicit_mesh(pure=False)


@check
def pure_path() -> None:
    in_explicit_mesh(pure=True)
    args = [put(v, mesh(4), "i") for v in values()]
    assert "all-gather" not in compiled(functools.partial(run, pure=True), *args)[1]


@check
def different_devices() -> None:
    a, x, h0 = values()
    first, second = jax.devices()[:2]
    with pytest.raises(scanlib.DeviceError, match=r"(?i)cpu.0 and .*cpu.1.*jax\.device_put"):
        scanlib.linear_recurrence(jax.device_put(a, first), jax.device_put(x, second), axis=1)
    h = scanlib.linear_recurrence(0.5, jax.device_put(x, second), h0, axis=1)
    assert h.devices() == {second}


if __name__ == "__main__":
    main()
