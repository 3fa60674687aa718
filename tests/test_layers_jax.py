"""Layers for JAX and Flax: the same numbers as on NumPy and torch from the same weights, and JAX's transformations."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from scanlib import cells
from scanlib.errors import ShapeError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from scanlib.layers import jax as layers  # noqa: E402

LAYERS = {
    value.cell_type.name: value
    for value in vars(layers).values()
    if inspect.isclass(value) and issubclass(value, layers.Layer) and value is not layers.Layer
}
T, BATCH, M, N = 6, 2, 3, 4


def make(name: str, count: int = 1, **options: Any) -> tuple[Any, Any, Any]:
    """A layer, its parameters and an input."""
    layer = LAYERS[name](M, N, count, dtype=jnp.float64, **options)
    x = np.random.default_rng(1).standard_normal((T, BATCH, M))
    return layer, layer.init(jax.random.key(0)), jnp.asarray(x)


def close(found: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-9, atol=1e-11)


def test_every_cell_has_a_layer() -> None:
    assert LAYERS.keys() == cells.CELLS.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_same_weights_same_numbers_in_numpy_torch_and_jax(name: str) -> None:
    torch = pytest.importorskip("torch")
    from scanlib.layers import torch as torch_layers

    layer, params, x = make(name, 2, bidirectional=True)
    random = np.random.default_rng(2)  # some published initial values are zero
    arrays = {
        key: np.asarray(v) + 0.3 * random.standard_normal(v.shape) for key, v in params.items()
    }
    params = jax.tree.map(jnp.asarray, arrays)
    kind = getattr(torch_layers, LAYERS[name].__name__)
    twin = kind(M, N, 2, bidirectional=True, dtype=torch.float64)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    found, carried = twin(torch.from_numpy(np.array(x)))

    def loss(params: Any) -> Any:
        output, state = layer.apply(params, x)
        return (output**2).sum(), (output, state)

    grads, (output, state) = jax.jit(jax.grad(loss, has_aux=True))(params)
    close(output, found.detach().numpy())
    close(state, [[array.detach().numpy() for array in one] for one in carried])
    numbers, left = layer.stack.run(arrays, np.asarray(x), None, None, 0, lambda x: x)
    close(output, numbers)
    close(state, left)
    found.square().sum().backward()
    for key, parameter in twin.named_parameters():
        close(grads[key], parameter.grad.numpy())


def test_goes_on_in_chunks_and_steps() -> None:
    layer, params, x = make("gilr_lstm", 2)
    whole, final = layer.apply(params, x)
    first, state = layer.apply(params, x[:2])

    def step(state: Any, x_t: Any) -> Any:
        output, state = layer.step(params, x_t, state)
        return state, output

    state, rest = jax.lax.scan(step, state, x[2:])
    close((jnp.concatenate([first, rest]), state), (whole, final))


@pytest.mark.slow
def test_layouts_and_resets() -> None:
    layer, params, x = make("gilr_lstm", bidirectional=True)
    output, _ = layer.apply(params, x)
    first = LAYERS["gilr_lstm"](M, N, batch_first=True, bidirectional=True)
    close(first.apply(params, x.swapaxes(0, 1))[0].swapaxes(0, 1), output)
    close(layer.apply(params, x[:, 0])[0], output[:, 0])
    reset = jnp.zeros((T, BATCH), bool).at[2].set(True)
    parts = [layer.apply(params, part)[0] for part in (x[:2], x[2:])]
    close(layer.apply(params, x, reset=reset)[0], jnp.concatenate(parts))


def test_positional_arguments_are_those_of_an_lstm() -> None:
    layer = layers.MinGRU(M, N, 2, True, True, 0.25, True, 0)
    assert (layer.batch_first, layer.dropout, layer.stack.bidirectional) == (True, 0.25, True)
    assert "bias_l1_reverse" in layer.stack.shapes()
    with pytest.raises(TypeError, match="proj_size is 2"):
        layers.GILR(M, N, 1, True, False, 0.0, False, 2)
    with pytest.raises(TypeError, match="bias is False"):
        layers.GILR(M, N, 1, False)


def test_dropout_lies_between_layers_and_needs_a_key() -> None:
    layer, params, x = make("gilr_lstm", 2, dropout=0.4)
    first, second = (
        {name.removesuffix(s): value for name, value in params.items() if name.endswith(s)}
        for s in ("_l0", "_l1")
    )
    cell, key = layer.stack.cells[0], jax.random.key(3)
    middle, _ = cell(first, x, axis=0)
    keep = jax.random.bernoulli(jax.random.split(key, 2)[0], 0.6, middle.shape)
    close(layer.apply(params, x)[0], cell(second, middle, axis=0)[0])
    dropped = jnp.where(keep, middle / 0.6, 0)
    close(layer.apply(params, x, key=key)[0], cell(second, dropped, axis=0)[0])
    assert 0 < keep.mean() < 1


def test_init_follows_the_key_inside_programs_too() -> None:
    layer, params, _ = make("gilr_lstm", sequence_length=1024)
    close(jax.jit(layer.init)(jax.random.key(0)), params)
    close(params["bias_l0"][:N], np.full(N, np.log(1024) + 1))
    other = layer.init(jax.random.key(1))
    assert not np.array_equal(other["weight_l0"], params["weight_l0"])
    shapes = jax.eval_shape(layer.init, jax.random.key(0))
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in params.items()}
    both = jax.vmap(layer.init)(jax.random.split(jax.random.key(0)))
    close(both["weight_l0"][1], layer.init(jax.random.split(jax.random.key(0))[1])["weight_l0"])


def test_says_what_is_wrong() -> None:
    layer, params, x = make("gilr")
    with pytest.raises(ShapeError, match="at least"):
        layer.apply(params, x[0, 0])
    with pytest.raises(ShapeError, match="dropout"):
        make("gilr", dropout=-1.0)
