"""The hierarchically gated recurrent network (Qin et al. 2023, arXiv 2311.04823)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, Params
from scanlib.cells.functions import convex, identity, namespace, project, sigmoid, silu, split, wide
from scanlib.cells.gates import Update
from scanlib.cells.initial import linear

Array = Any


@dataclass(frozen=True)
class HGRN(Cell):
    r"""A gated recurrence whose forget gate never falls below a bound, which rises from layer to layer.

    .. math::
        \lambda = \gamma + (1 - \gamma)\, \sigma(x W_\lambda), \quad
        h_t = \lambda_t h_{t-1} + (1 - \lambda_t)\, \text{silu}(x_t W_i)

        y = \left(\text{norm}(h)\, w \odot \text{silu}(x W_g)\right) W_o, \qquad
        \text{norm}(h) = h / \sqrt{\text{mean}(h^2) + 10^{-5}}

    Parameters: `weight` (m, 3n) = [W_i, W_lambda, W_g], `norm` (n,) = w, `output` (n, m) = W_o. State: h. Output: y, of
    m features. Without the output gate: `weight` (m, 2n) alone, and h is the output.

    Attributes
    ----------
    lower_bound : float
        gamma: 0 in the first layer, rising towards 1 in later ones.
    output_gate : bool
    """

    lower_bound: float = 0.0
    output_gate: bool = True
    name: ClassVar[str] = "hgrn"

    def output_size(self, input_size: int, hidden_size: int) -> int:
        return input_size if self.output_gate else hidden_size

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        m, n = input_size, hidden_size
        if not self.output_gate:
            return {"weight": (m, 2 * n)}
        return {"weight": (m, 3 * n), "norm": (n,), "output": (n, m)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        if not self.output_gate:
            return {"weight": linear(rng, m, 2 * n)}
        return {"weight": linear(rng, m, 3 * n), "norm": np.ones(n), "output": linear(rng, n, m)}

    def sizes(self, params: Params) -> tuple[int, int]:
        m, columns = params["weight"].shape
        return m, columns // (3 if self.output_gate else 2)

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Update:
        y = wide(project(x, params["weight"]))
        i, f, *gate = split(y, 3 if self.output_gate else 2)
        decay = sigmoid(f)
        if self.lower_bound:
            bound = float(self.lower_bound)  # a NumPy scalar would have the dtype decided by it
            decay = bound + (1 - bound) * decay
        entering = convex(decay, silu(i))
        if not self.output_gate:
            return Update(decay, entering, identity)

        def read(h: Array) -> Array:
            xp = namespace(h)
            size = xp.sqrt(xp.mean(h * h, axis=-1, keepdims=True) + 1e-5)
            return project(h / size * wide(params["norm"]) * silu(gate[0]), wide(params["output"]))

        return Update(decay, entering, read)
