"""Layers as Flax NNX modules: what they add to those of `scanlib.layers.jax`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
import jax.numpy as jnp  # noqa: E402

from scanlib.layers import flax as layers  # noqa: E402
from scanlib.layers import jax as pure  # noqa: E402

T, BATCH, M, N = 6, 2, 3, 4
X = jnp.asarray(np.random.default_rng(1).standard_normal((T, BATCH, M)), jnp.float32)


def test_every_pure_layer_has_a_module() -> None:
    def found(module: Any) -> set[str]:
        return {
            name
            for name, v in vars(module).items()
            if isinstance(v, type) and v.__module__ == module.__name__
        }

    assert found(layers) == found(pure)
    for name in found(layers) - {"Layer"}:
        assert getattr(layers, name).layer_type is getattr(pure, name)


@pytest.mark.slow
def test_same_numbers_as_the_pure_form() -> None:
    module = layers.GILRLSTM(M, N, 2, bidirectional=True, rngs=nnx.Rngs(0), forget_bias=2.0)
    layer = pure.GILRLSTM(M, N, 2, bidirectional=True, forget_bias=2.0)
    params = {name: value[...] for name, value in nnx.state(module, nnx.Param).items()}
    assert params.keys() == layer.stack.shapes().keys()
    output, state = nnx.jit(lambda module, x: module(x))(module, X)
    for found, wanted in zip(
        jax.tree.leaves((output, state)), jax.tree.leaves(layer.apply(params, X)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    grads = nnx.grad(lambda module: module(X)[0].sum())(module)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))


def test_positional_arguments_are_those_of_an_lstm() -> None:
    module = layers.WKV(M, N, 2, True, True, 0.0, True, rngs=nnx.Rngs(0))
    assert module(X.swapaxes(0, 1))[0].shape == (BATCH, T, 2 * N)


def test_streams_and_drops() -> None:
    module = layers.SRU(M, N, 2, dropout=0.5, rngs=nnx.Rngs(0))
    first, second = module(X)[0], module(X)[0]
    assert not np.array_equal(first, second)
    module.eval()
    whole, _ = module(X)
    assert np.array_equal(whole, module(X)[0])
    _, state = module(X[:-1])
    last, _ = module.step(X[-1], state)
    np.testing.assert_allclose(last, whole[-1], rtol=1e-5, atol=1e-6)
