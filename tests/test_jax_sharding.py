"""JAX arrays sharded over devices: right values, and no operand gathered on a device that has no need of it.

The checks need four devices, which have to be asked for before JAX starts: this file runs itself once in a process
that has them, and each test reports one check.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scanlib

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from scanlib import jax_export  # noqa: E402
from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import sharding as jax_sharding  # noqa: E402

B, T, D = 8, 40, 4
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


# ---- in this process


@functools.cache
def outcomes() -> dict[str, str]:
    """What the checks came to: the traceback of each, empty where it held."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-W", "error", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        return dict.fromkeys(CHECKS, run.stderr[-4000:])
    return json.loads(run.stdout.splitlines()[-1])


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
        "resets",
        "packed",
    ],
)
def test_on_four_devices(name: str) -> None:
    assert outcomes()[name] == ""


# ---- in the other one


def mesh(*sizes: int, kind: Any = None) -> Any:
    return jax.make_mesh(
        sizes, ("i", "j")[: len(sizes)], axis_types=(kind or AxisType.Auto,) * len(sizes)
    )


def put(value: Any, on: Any, *spec: Any) -> Any:
    return jax.device_put(value, NamedSharding(on, PartitionSpec(*spec)))


def values() -> tuple[Any, Any, Any]:
    """a for every element, x, h0"""
    rng = np.random.default_rng(1)
    shapes = (B, T, D), (B, T, D), (B, D)
    a, x, h0 = (jnp.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    return a / 2, x, h0


def run(a: Any, x: Any, h0: Any, pure: bool = False) -> Any:
    return adapter.linear_recurrence(a, x, h0, 1, False, True, None, pure=pure)


def loss(a: Any, x: Any, h0: Any, pure: bool = False) -> Any:
    h, final = run(a, x, h0, pure)
    return (h**2).sum() + (final**3).sum()


def grads_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.grad(function, (0, 1, 2))


def close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda v, w: np.testing.assert_allclose(v, w, rtol=2e-4, atol=2e-4), found, expected
    )


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """The result, checked against that of one device, and the program's text."""
    program = jax.jit(function).lower(*args).compile()
    found = program(*args)
    single = jax.device_put(jax.tree.map(np.asarray, args), jax.devices()[0])
    close(found, jax.jit(function)(*single))
    return found, program.as_text()


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
    for run, warning in ((mapped, None), (function, "cannot be partitioned")):
        with pytest.warns(RuntimeWarning, match=warning) if warning else contextlib.nullcontext():
            made = jax.export.export(jax.jit(run), disabled_checks=jax_export.CHECKS)(a, x)
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


def cut(a: Any, x: Any, h0: Any, starts: Any, pure: bool = False) -> Any:
    """Both outputs, of a reset or of offsets."""
    given = (starts, None) if starts.dtype == bool else (None, starts)
    return adapter.linear_recurrence(a, x, h0, 1, False, True, None, *given, pure=pure)


def cut_loss(*args: Any, pure: bool = False) -> Any:
    h, final = cut(*args, pure=pure)
    return (h**2).sum() + (final**3).sum()


def mapped(pure: bool, states: Any, starts: Any, spec: Any) -> None:
    """Gradients in a shard_map, whose operands do not vary alike."""
    a, x, _ = values()

    def local(a: Any, x: Any, h0: Any, starts: Any) -> Any:
        return jax.lax.psum(cut_loss(a, x, h0, starts, pure=pure), "i")

    whole, batch = PartitionSpec(), PartitionSpec("i")
    specs = whole, batch, batch, spec
    run = jax.shard_map(local, mesh=mesh(4), in_specs=specs, out_specs=whole)
    args = a[0], x, states, starts
    close(jax.jit(grads_of(run))(*args), grads_of(cut_loss)(*args))


def explicitly(pure: bool, starts: Any, *spec: Any) -> None:
    """Gradients and their derivatives on a mesh with explicit axes."""
    a, x, h0 = values()
    if starts.dtype != bool:
        h0 = jnp.stack([h0, -h0, h0 / 2], 1)
    grads = grads_of(functools.partial(cut_loss, pure=pure))

    def second(*args: Any) -> Any:
        return jax.jvp(lambda *at: grads(*at, args[3]), args[:3], args[:3])[1]

    on = mesh(4, kind=AxisType.Explicit)
    with jax.set_mesh(on):
        args = put(a, on, "i"), put(x, on, "i"), put(h0, on, "i"), put(starts, on, *spec)
        h, final = jax.jit(functools.partial(cut, pure=pure))(*args)
        assert jax.typeof(h).sharding.spec[0] == jax.typeof(final).sharding.spec[0] == "i"
        found = jax.jit(grads)(*args), jax.jit(second)(*args)
        assert "all-gather" not in jax.jit(grads).lower(*args).compile().as_text()
    close(found, (grads(a, x, h0, starts), second(a, x, h0, starts)))


@check
def resets() -> None:
    """Sharded as the batch is, repeated over it, and the decay's gradient a sum over it."""
    a, x, h0 = values()
    reset = jnp.asarray(np.random.default_rng(2).random((B, T, 1)) < 0.2)
    on = mesh(4)
    for starts, spec in ((reset, ("i",)), (reset[:1], ())):
        args = put(a, on, "i"), put(x, on, "i"), put(h0, on, "i"), put(starts, on, *spec)
        assert "all-gather" not in compiled(cut, *args)[1]
        found, text = compiled(grads_of(cut_loss), *args)
        assert "all-gather" not in text
        assert [grad.sharding.spec[0] for grad in found] == ["i"] * 3
    _, text = compiled(grads_of(cut_loss), put(a[0], on), *args[1:])
    assert "all-gather" not in text
    for pure in (False, True):
        explicitly(pure, reset, "i")
        mapped(pure, h0, reset, PartitionSpec("i"))
        mapped(pure, h0, reset[0], PartitionSpec())


@check
def packed() -> None:
    """The axis of sequences is whole on every device, as long as time or not."""
    a, x, h0 = values()
    on = mesh(4)
    for ends in ([0, 10, 10, 20, T], list(range(T + 1))):
        starts = jnp.array(ends)
        states = jnp.stack([h0 * (1 + i) for i in range(len(ends) - 1)], 1)
        args = put(a, on, "i"), put(x, on, "i"), put(states, on, "i"), put(starts, on)
        (_, final), text = compiled(cut, *args)
        assert "all-gather" not in text
        assert final.sharding.spec[0] == "i"
        found, text = compiled(grads_of(cut_loss), *args)
        assert "all-gather" not in text
        assert [grad.sharding.spec[0] for grad in found] == ["i"] * 3
        # Given and wanted with sequences on several devices: they are gathered, and spread again.
        spread = NamedSharding(on, PartitionSpec(None, "i"))
        placed = *args[:2], jax.device_put(states, spread), args[3]
        wanted = jax.jit(grads_of(cut_loss), out_shardings=(None, None, spread))
        close(wanted(*placed), found)
    starts = jnp.array([0, 10, 10, T])
    for pure in (False, True):
        explicitly(pure, starts)
        mapped(pure, states[:, :3], starts, PartitionSpec())


def main() -> None:
    assert jax.device_count() == 4
    found = {}
    for name, function in CHECKS.items():
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc(limit=-6)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
