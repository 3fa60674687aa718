"""Recurrent layers for JAX as pure functions: `params = layer.init(key)`, `output, state = layer.apply(params, x)`."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scanlib import cells
from scanlib.errors import ShapeError
from scanlib.layers.stack import Stack, States

Array = jax.Array
Params = dict[str, Array]


class Layer:
    """Layers of a cell over a sequence, all time steps at once; the object holds no arrays.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, **options
        As for the layers of `scanlib.layers.torch`.
    dtype
        Of the parameters.

    Notes
    -----
    Parameters are one flat dictionary with the names of the torch layer's state_dict, so weights go over with
    `{name: jax.numpy.asarray(value) for name, value in torch_layer.state_dict().items()}`.
    """

    cell_type: ClassVar[type[cells.Cell]]

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
        dtype: Any = jnp.float32,
        **options: Any,
    ) -> None:
        # fmt: off
        self.stack = Stack(
            self.cell_type, input_size, hidden_size, num_layers, bias, dropout, bidirectional, proj_size, options
        )
        # fmt: on
        self.batch_first, self.dropout, self.dtype = batch_first, dropout, jnp.dtype(dtype)

    def init(self, key: Array) -> Params:
        """Initial values of all parameters: those the cell's authors published.

        Parameters
        ----------
        key
            A key of `jax.random`. Values are drawn by NumPy from its bits; under `jit` that is a callback to the host.
        """

        def draw(bits: Any) -> dict[str, Any]:
            values = self.stack.init(np.random.default_rng(np.asarray(bits)))
            return {name: np.asarray(value, self.dtype) for name, value in values.items()}

        bits = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        if isinstance(bits, jax.core.Tracer):
            kinds = {
                name: jax.ShapeDtypeStruct(shape, self.dtype)
                for name, shape in self.stack.shapes().items()
            }
            return jax.pure_callback(draw, kinds, bits, vmap_method="sequential")
        return {name: jnp.asarray(value) for name, value in draw(bits).items()}

    def apply(
        self,
        params: Params,
        x: Array,
        state: States | None = None,
        *,
        reset: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Array, States]:
        """The layers over a whole sequence.

        Parameters
        ----------
        params
            From `init`, or of those names and shapes.
        x : array, shape (T, batch, input_size), with `batch_first` (batch, T, input_size), or unbatched (T, input_size)
        state
            What an earlier call returned, to go on from there.
        reset : boolean array, the shape of x without its last axis, optional
            True where a new sequence starts.
        key
            For dropout between layers; without one nothing is dropped.

        Returns
        -------
        output : array, shape (T, batch, features), or laid out as x is
        state
            A tuple with one entry for each layer and direction, each what the cell carries.
        """
        if x.ndim < 2:
            raise ShapeError(f"x has shape {x.shape}; at least (T, input_size) is expected.")
        keys = iter(() if key is None else jax.random.split(key, self.stack.num_layers))
        axis = x.ndim - 2 if self.batch_first else 0
        drop = lambda x: self._drop(x, next(keys, None))  # noqa: E731
        return self.stack.run(params, x, state, reset, axis, drop)

    def step(
        self,
        params: Params,
        x: Array,
        state: States | None = None,
        *,
        reset: Array | None = None,
    ) -> tuple[Array, States]:
        """One step of time: x of shape (batch, input_size) or (input_size,); without dropout."""
        return self.stack.step(params, x, state, reset)

    def _drop(self, x: Array, key: Array | None) -> Array:
        if key is None or not self.dropout:
            return x
        keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0)


class GILR(Layer):
    """Gated impulse linear recurrence: `scanlib.cells.GILR`."""

    cell_type = cells.GILR


class GILRLSTM(Layer):
    """An LSTM whose gates see a GILR in place of its own output: `scanlib.cells.GILRLSTM`."""

    cell_type = cells.GILRLSTM


class SRU(Layer):
    """The simple recurrent unit: `scanlib.cells.SRU`."""

    cell_type = cells.SRU


class QRNN(Layer):
    """Gates from a convolution over the last `width` inputs: `scanlib.cells.QRNN`."""

    cell_type = cells.QRNN


class TRNN(Layer):
    """Strongly-typed recurrent network: `scanlib.cells.TRNN`."""

    cell_type = cells.TRNN


class TGRU(Layer):
    """Strongly-typed gated recurrent unit: `scanlib.cells.TGRU`."""

    cell_type = cells.TGRU


class TLSTM(Layer):
    """Strongly-typed LSTM: `scanlib.cells.TLSTM`."""

    cell_type = cells.TLSTM


class MinGRU(Layer):
    """A GRU without its previous state in the gates: `scanlib.cells.MinGRU`."""

    cell_type = cells.MinGRU


class MinLSTM(Layer):
    """An LSTM without its previous state in the gates: `scanlib.cells.MinLSTM`."""

    cell_type = cells.MinLSTM


class RGLRU(Layer):
    """Griffin's real-gated linear recurrent unit: `scanlib.cells.RGLRU`."""

    cell_type = cells.RGLRU


class WKV(Layer):
    """RWKV-4's time mixing: `scanlib.cells.WKV`, each layer initialised for its place in the stack."""

    cell_type = cells.WKV


class LRU(Layer):
    """Linear recurrent unit, complex and diagonal: `scanlib.cells.LRU`."""

    cell_type = cells.LRU


class S5(Layer):
    """Diagonal state space: `scanlib.cells.S5`."""

    cell_type = cells.S5


class HGRN(Layer):
    """Hierarchically gated recurrent network: `scanlib.cells.HGRN`; `lower_bound` may be a list, one a layer."""

    cell_type = cells.HGRN
