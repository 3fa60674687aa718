"""Strongly-typed recurrent networks (Balduzzi and Ghifary 2016, arXiv 1602.02218).

Their gates see inputs only, never a state: in the words of linear surrogates, the state before is replaced by the
previous input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, Params, Surrogate
from scanlib.cells.functions import (
    identity,
    parts,
    project,
    project_pair,
    sigmoid,
    split,
    tanh,
    wide,
)
from scanlib.cells.gates import Gated, Gates, Update
from scanlib.cells.initial import blocks, glorot
from scanlib.cells.surrogate import Window

Array = Any


@dataclass(frozen=True)
class TRNN(Cell):
    r"""T-RNN: a leaky average of a linear map of the input.

    .. math:: z = x W + b, \quad f = \sigma(x V + b_f), \quad h_t = f_t h_{t-1} + (1 - f_t) z_t

    Parameters: `weight` (m, 2n) = [W, V], `bias` (2n,). State and output: h.

    Attributes
    ----------
    forget_bias : float
        What b_f starts with.
    """

    forget_bias: float = 0.0
    name: ClassVar[str] = "t_rnn"

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        return {"weight": (input_size, 2 * hidden_size), "bias": (2 * hidden_size,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        return {
            "weight": glorot(rng, input_size, hidden_size, 2),
            "bias": blocks(0, self.forget_bias, size=hidden_size),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        m, columns = params["weight"].shape
        return m, columns // 2

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        columns = wide(project(x, params["weight"], params["bias"]))
        return Gated(columns, Gates(("candidate", "decay"), "identity"))


@dataclass(frozen=True)
class _Typed(Cell):
    r"""What T-GRU and T-LSTM share: z, f and o from this input and the one before.

    .. math::
        z = x_{t-1} V + x_t W + b, \quad f = \sigma(x_{t-1} V_f + x_t W_f + b_f), \quad
        o = \tau(x_{t-1} V_o + x_t W_o + b_o), \quad \tau = \tanh

    Parameters: `weight` (2m, 3n), whose first m rows are the V's and whose columns are z, f, o; `bias` (3n,).

    Attributes
    ----------
    forget_bias : float
        What b_f starts with.
    """

    forget_bias: float = 0.0

    def stand_in(self) -> Surrogate:
        return Window(1)

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        return {"weight": (2 * input_size, 3 * hidden_size), "bias": (3 * hidden_size,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        return {
            "weight": np.concatenate([glorot(rng, m, n, 3), glorot(rng, m, n, 3)]),
            "bias": blocks(0, self.forget_bias, 0, size=n),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        rows, columns = params["weight"].shape
        return rows // 2, columns // 3


@dataclass(frozen=True)
class TGRU(_Typed):
    r"""T-GRU: h_t = f_t h_{t-1} + z_t o_t, with the gates of `_Typed`. State: the last input, and h. Output: h."""

    name: ClassVar[str] = "t_gru"

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Update:
        z, f, o = split(wide(project_pair(s, x, params["weight"], params["bias"])), 3)
        return Update(sigmoid(f), z * tanh(o), identity)


@dataclass(frozen=True)
class TLSTM(_Typed):
    r"""T-LSTM: c_t = f_t c_{t-1} + (1 - f_t) z_t and h_t = c_t o_t. State: the last input, and c. Output: h."""

    name: ClassVar[str] = "t_lstm"

    @property
    def memory(self) -> tuple[str, ...]:
        return ("c",)

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        n = params["bias"].shape[0] // 3
        weights, biases = (parts(params[name], 2 * n, n) for name in ("weight", "bias"))
        # The recurrence's columns on their own, as its kernel takes them.
        columns, o = (
            wide(project_pair(s, x, weight, bias))
            for weight, bias in zip(weights, biases, strict=True)
        )
        o = tanh(o)
        return Gated(columns, Gates(("candidate", "decay"), "identity"), lambda c: c * o)
