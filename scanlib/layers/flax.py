"""Recurrent layers as Flax NNX modules: `scanlib.layers.jax` with the parameters inside."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from scanlib.layers import jax as pure
from scanlib.layers.stack import States


class Layer(nnx.Module):
    """Layers of a cell over a sequence, all time steps at once.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, **options
        As for the layers of `scanlib.layers.torch`.
    dtype
        Of the parameters.
    rngs
        `params` draws the initial values, `dropout` what is dropped.

    Notes
    -----
    Parameters are attributes with the names of the torch layer's state_dict. `eval()` and `train()` switch dropout.
    """

    layer_type: ClassVar[type[pure.Layer]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        **options: Any,
    ) -> None:
        self.layer = self.layer_type(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            dtype=dtype,
            **options,
        )
        for name, value in self.layer.init(rngs.params()).items():
            setattr(self, name, nnx.Param(value))
        self.deterministic = False
        self.rngs = rngs.dropout.fork() if dropout else None

    def __call__(
        self,
        x: jax.Array,
        state: States | None = None,
        *,
        reset: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, States]:
        """`(output, state)`; see `scanlib.layers.jax.Layer.apply`."""
        key = None
        if self.rngs is not None and not self.deterministic:
            key = self.rngs() if rngs is None else rngs.dropout()
        return self.layer.apply(self._weights(), x, state, reset=reset, key=key)

    def step(
        self, x: jax.Array, state: States | None = None, *, reset: jax.Array | None = None
    ) -> tuple[jax.Array, States]:
        """One step of time: x of shape (batch, input_size) or (input_size,); without dropout."""
        return self.layer.step(self._weights(), x, state, reset=reset)

    def _weights(self) -> pure.Params:
        return {name: getattr(self, name)[...] for name in self.layer.stack.shapes()}


class GILR(Layer):
    """Gated impulse linear recurrence: `scanlib.cells.GILR`."""

    layer_type = pure.GILR


class GILRLSTM(Layer):
    """An LSTM whose gates see a GILR in place of its own output: `scanlib.cells.GILRLSTM`."""

    layer_type = pure.GILRLSTM


class SRU(Layer):
    """The simple recurrent unit: `scanlib.cells.SRU`."""

    layer_type = pure.SRU


class QRNN(Layer):
    """Gates from a convolution over the last `width` inputs: `scanlib.cells.QRNN`."""

    layer_type = pure.QRNN


class TRNN(Layer):
    """Strongly-typed recurrent network: `scanlib.cells.TRNN`."""

    layer_type = pure.TRNN


class TGRU(Layer):
    """Strongly-typed gated recurrent unit: `scanlib.cells.TGRU`."""

    layer_type = pure.TGRU


class TLSTM(Layer):
    """Strongly-typed LSTM: `scanlib.cells.TLSTM`."""

    layer_type = pure.TLSTM


class MinGRU(Layer):
    """A GRU without its previous state in the gates: `scanlib.cells.MinGRU`."""

    layer_type = pure.MinGRU


class MinLSTM(Layer):
    """An LSTM without its previous state in the gates: `scanlib.cells.MinLSTM`."""

    layer_type = pure.MinLSTM


class RGLRU(Layer):
    """Griffin's real-gated linear recurrent unit: `scanlib.cells.RGLRU`."""

    layer_type = pure.RGLRU


class WKV(Layer):
    """RWKV-4's time mixing: `scanlib.cells.WKV`, each layer initialised for its place in the stack."""

    layer_type = pure.WKV


class LRU(Layer):
    """Linear recurrent unit, complex and diagonal: `scanlib.cells.LRU`."""

    layer_type = pure.LRU


class S5(Layer):
    """Diagonal state space: `scanlib.cells.S5`."""

    layer_type = pure.S5


class HGRN(Layer):
    """Hierarchically gated recurrent network: `scanlib.cells.HGRN`; `lower_bound` may be a list, one a layer."""

    layer_type = pure.HGRN
