"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, Params
from scanlib.cells.functions import (
    namespace,
    project,
    softplus,
    split,
    wide,
)
from scanlib.cells.gates import Gated, Gates
from scanlib.cells.initial import linear

Array = Any


@dataclass(frozen=True)
class _Minimal(Cell):
    """What the two share: one matrix of `count` blocks, a bias if wanted, an initialisation like torch.nn.Linear's.

    Attributes
    ----------
    bias : bool
        Whether the projections have one. Authors' equations do, implementations in use do not.
    positive : bool
        Whether the candidate goes through v + 1/2 (v >= 0) or sigmoid(v), as in the authors' experiments: it keeps
        states above zero, which their scan in the logarithm needs. This one does not, and is more accurate for it.
    """

    bias: bool = False
    positive: bool = True
    count: ClassVar[int]

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        width = self.count * hidden_size
        return {"weight": (input_size, width)} | ({"bias": (width,)} if self.bias else {})

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        shapes = self.shapes(input_size, hidden_size)
        return {
            name: linear(rng, input_size, shape[-1]).reshape(shape)
            if name == "weight"
            else rng.uniform(-1, 1, shape) / np.sqrt(input_size)
            for name, shape in shapes.items()
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        m, width = params["weight"].shape
        return m, width // self.count

    def _project(self, params: Params, x: Array) -> Array:
        """The blocks of columns, the candidate's first."""
        return wide(project(x, params["weight"], params["bias"] if self.bias else None))

    @property
    def _candidate(self) -> str:
        return "positive" if self.positive else "identity"


@dataclass(frozen=True)
class MinGRU(_Minimal):
    r"""A GRU without its previous state in the gates.

    .. math:: z = \sigma(x W_z), \quad \tilde h = x W, \quad h_t = (1 - z_t) h_{t-1} + z_t \tilde h_t

    Parameters: `weight` (m, 2n) = [W, W_z]. State and output: h.
    """

    count: ClassVar[int] = 2
    name: ClassVar[str] = "min_gru"

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        gates = Gates(("candidate", "decay"), self._candidate, complement=True)
        return Gated(self._project(params, x), gates)


@dataclass(frozen=True)
class MinLSTM(_Minimal):
    r"""An LSTM without its previous state in the gates, and these normalised to sum to one.

    .. math::
        f = \sigma(x W_f), \quad i = \sigma(x W_i), \quad \tilde h = x W, \quad
        h_t = \frac{f_t}{f_t + i_t} h_{t-1} + \frac{i_t}{f_t + i_t} \tilde h_t

    Parameters: `weight` (m, 3n) = [W, W_f, W_i]. State and output: h.
    """

    count: ClassVar[int] = 3
    name: ClassVar[str] = "min_lstm"

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        candidate, f, i = split(self._project(params, x), 3)
        # f / (f + i) = sigmoid(log f - log i), which stays finite where both gates underflow.
        columns = namespace(x).concat([candidate, softplus(-i) - softplus(-f)], axis=-1)
        return Gated(columns, Gates(("candidate", "decay"), self._candidate))
