"""Adam with clipped gradients in PyTorch, and tensors as NumPy arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Training:
    """A model and its optimiser."""

    def __init__(self, model: torch.nn.Module, rate: float, clip: float) -> None:
        self.model, self.clip = model, clip
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate)

    def step(self, loss: Tensor, rate: float | None = None) -> None:
        """One step down the gradient of `loss`, with another rate if given."""
        if rate is not None:
            self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()

    def state(self) -> Any:
        """Everything that learning changes, torch's generator among it."""
        return arrays([self.model.state_dict(), self.optimizer.state_dict(), torch.get_rng_state()])

    def restore(self, state: Any) -> None:
        model, optimizer, generator = tensors(state)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        torch.set_rng_state(generator)


def arrays(tree: Any) -> Any:
    """The tree with NumPy arrays in the place of tensors."""
    return mapped(tree, Tensor, lambda tensor: tensor.detach().cpu().numpy())


def tensors(tree: Any) -> Any:
    """The tree with tensors in the place of NumPy arrays."""
    return mapped(tree, np.ndarray, torch.from_numpy)


def mapped(tree: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The tree with `function` of every leaf of that kind."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, dict):
        return {key: mapped(value, kind, function) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(value, kind, function) for value in tree)
    return tree
