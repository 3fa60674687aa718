"""Recurrent layers as Flax NNX modules: `scanlib.layers.jax` with the parameters inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from scanlib.layers import jax as pure
from scanlib.layers.stack import States, classes_for


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
        offsets: Any = None,
        lengths: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, States]:
        """`(output, state)`; see `scanlib.layers.jax.Layer.apply`."""
        key = None
        if self.rngs is not None and not self.deterministic:
            key = self.rngs() if rngs is None else rngs.dropout()
        starts = {"reset": reset, "offsets": offsets, "lengths": lengths}
        return self.layer.apply(self._weights(), x, state, key=key, **starts)

    def step(
        self, x: jax.Array, state: States | None = None, *, reset: jax.Array | None = None
    ) -> tuple[jax.Array, States]:
        """One step of time: x of shape (batch, input_size) or (input_size,); without dropout."""
        return self.layer.step(self._weights(), x, state, reset=reset)

    def _weights(self) -> pure.Params:
        return {name: getattr(self, name)[...] for name in self.layer.stack.shapes()}


#: A layer for each cell of `scanlib.cells.CELLS`, under the cell's name; each an attribute of this module.
LAYERS: dict[str, type[Layer]] = classes_for(Layer, "layer_type", pure.LAYERS.values())
globals().update(LAYERS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Layer]: ...
