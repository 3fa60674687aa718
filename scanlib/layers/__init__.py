"""Recurrent layers to drop into a model: `scanlib.layers.torch`, `scanlib.layers.jax` and `scanlib.layers.flax`.

Each module has the same layers, made from the cells of `scanlib.cells` and follows `torch.nn.LSTM`'s conventions. Each
is imported when first asked for, and needs its library then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scanlib.lazy import attributes

if TYPE_CHECKING:
    from scanlib.layers import flax as flax
    from scanlib.layers import jax as jax
    from scanlib.layers import torch as torch

__getattr__, __dir__ = attributes(__name__, {"torch": "torch", "jax": "jax", "flax": "flax"})
