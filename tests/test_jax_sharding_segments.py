"""Resets and offsets of JAX arrays sharded over devices: right values, and nothing gathered that need not be."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402
from jax_sharded import (  # noqa: E402
    B,
    T,
    check,
    close,
    compiled,
    grads_of,
    main,
    mesh,
    outcomes,
    put,
    values,
)

from scanlib.backends import jax as adapter  # noqa: E402


@pytest.mark.parametrize("name", ["resets", "packed"])
def test_on_four_devices(name: str) -> None:
    assert outcomes(__file__)[name] == ""


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


if __name__ == "__main__":
    main()
