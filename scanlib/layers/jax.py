"""Recurrent layers for JAX as pure functions: `params = layer.init(key)`, `output, state = layer.apply(params, x)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scanlib import cells
from scanlib.errors import ShapeError
from scanlib.layers.stack import Stack, States, classes_for

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
        offsets: Any = None,
        lengths: Any = None,
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
            True where a new sequence starts from nothing.
        offsets : integers, shape (N + 1,), optional
            Where sequences start that lie one after the other along the axis of time; arrays of the state have N in
            the place of T.
        lengths : integers, shape (batch,), optional
            How long the sequences of a padded batch are. Nothing is computed for the padding (under `jit`, where
            lengths are not known, as much as for one more sequence); the output is zero there, and states are those
            after each sequence's last step.
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
        return self.stack.run(params, x, state, reset, axis, drop, offsets, lengths)

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


#: A layer for each cell of `scanlib.cells.CELLS`, under the cell's name; each an attribute of this module.
LAYERS: dict[str, type[Layer]] = classes_for(Layer, "cell_type", cells.CELLS.values())
globals().update(LAYERS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Layer]: ...
