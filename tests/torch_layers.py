"""The layers for PyTorch with weights in which every term matters, and inputs for them."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from scanlib.layers import torch as layers

#: Each layer's class by the name of its cell.
LAYERS = {
    value.cell_type.name: value
    for value in vars(layers).values()
    if inspect.isclass(value) and issubclass(value, layers.Layer) and value is not layers.Layer
}
T, BATCH, M, N = 7, 2, 3, 4


def make(name: str, *sizes: int, **options: Any) -> Any:
    """A layer with weights that leave no path at zero, as some published initial values do."""
    torch.manual_seed(0)
    layer = LAYERS[name](*(sizes or (M, N)), dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer


def inputs(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape or (T, BATCH, M), dtype=torch.float64, generator=generator)
