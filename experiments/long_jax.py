"""The long-dependency task's model and optimiser in JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn
from long_dependency import SYMBOLS, Array, Settings, latching

from scanlib.layers.jax import GILRLSTM

Tree = Any


def device(asked: str) -> str:
    """JAX's default platform; `--device` is torch's."""
    return jax.default_backend()


def learner(settings: Settings) -> Learner:
    return Learner(settings)


class Learner:
    """See `long_dependency.Learner`."""

    def __init__(self, settings: Settings) -> None:
        layers_key, readout_key = jax.random.split(jax.random.key(settings.seed))
        make = own_lstm if settings.model == "lstm" else gilr_lstm
        layers, self.apply = make(settings, layers_key)
        weight = jax.random.normal(readout_key, (settings.units,))
        parameters = {"layers": layers, "weight": weight, "bias": jnp.zeros(())}
        first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
        self.trained: Tree = parameters, first, second, jnp.zeros((), jnp.int32)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(parameters))
        found = jax.devices()[0]
        self.device = "cpu" if found.platform == "cpu" else found.device_kind
        step = functools.partial(_step, self.apply, settings.rate, settings.clip)
        self.step = jax.jit(step, donate_argnums=0)
        self.share = jax.jit(lambda *arguments: _loss(self.apply, *arguments)[1])

    def learn(self, symbols: Array, signs: Array) -> tuple[float, float]:
        self.trained, loss, right = self.step(self.trained, symbols, signs)
        return float(loss), float(right)

    def right(self, symbols: Array, signs: Array) -> float:
        return float(self.share(self.trained[0], symbols, signs))

    def state(self) -> Any:
        return jax.tree.map(np.asarray, self.trained)

    def restore(self, state: Any) -> None:
        self.trained = jax.tree.map(jnp.asarray, state)


def gilr_lstm(settings: Settings, key: jax.Array) -> tuple[Tree, Any]:
    """Parameters, and the function from them and x to the last output."""
    layer = GILRLSTM(SYMBOLS, settings.units, settings.layers, **settings.options)
    params = layer.init(key)
    if settings.latches:
        values = latching(settings, {k: np.asarray(v) for k, v in params.items()})
        params = {k: jnp.asarray(v) for k, v in values.items()}
    return params, lambda params, x: layer.apply(params, x)[0][-1]


def own_lstm(settings: Settings, key: jax.Array) -> tuple[Tree, Any]:
    """The same for `jax.experimental.rnn`: cuDNN's LSTM on a GPU, its reference in JAX operations elsewhere."""
    n = settings.units
    sizes = {"input_size": SYMBOLS, "hidden_size": n, "num_layers": settings.layers}
    weights = rnn.init_lstm_weight(key, **sizes, bidirectional=False)
    places = rnn.unpack_lstm_weights(jnp.arange(weights.size), *sizes.values(), False)
    for layer in range(settings.layers):  # of the gates i, f, g, o
        weights = weights.at[places[2][layer][n : 2 * n]].set(settings.forget_bias)
        weights = weights.at[places[3][layer][n : 2 * n]].set(0)

    def apply(weights: jax.Array, x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1)
        state = jnp.zeros((settings.layers, x.shape[0], n))
        lengths = jnp.full(x.shape[0], x.shape[1], jnp.int32)
        options = {"dropout": 0.0, "bidirectional": False}
        if jax.default_backend() == "gpu":
            return rnn.lstm(x, state, state, weights, lengths, **sizes, **options)[0][:, -1]
        parts = rnn.unpack_lstm_weights(weights, *sizes.values(), False)
        return rnn.lstm_ref(x, state, state, *parts, lengths, *sizes.values(), 0.0, False)[0][:, -1]

    return weights, apply


def _loss(apply: Any, parameters: Tree, symbols: Any, signs: Any) -> tuple[Any, Any]:
    """Logistic loss and share of right answers."""
    x = jax.nn.one_hot(symbols, SYMBOLS).at[0, :, 0].set(signs)
    logit = apply(parameters["layers"], x) @ parameters["weight"] + parameters["bias"]
    return jax.nn.softplus(-signs * logit).mean(), (signs * logit > 0).mean()


def _step(apply: Any, rate: float, clip: float, trained: Tree, symbols: Any, signs: Any) -> Any:
    """One step of Adam on gradients clipped to a norm."""
    parameters, first, second, count = trained
    loss = functools.partial(_loss, apply)
    (value, right), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, symbols, signs)
    norm = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1, clip / (norm + 1e-6)), gradient)
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p - rate * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)

    return (jax.tree.map(moved, parameters, first, second), first, second, count), value, right
