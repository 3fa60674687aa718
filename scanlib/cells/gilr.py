"""GILR and GILR-LSTM (Martin and Cundy 2018, sections 3.1 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, Params, Surrogate, check_choice
from scanlib.cells.functions import ACTIVATIONS, project, project_pair, wide
from scanlib.cells.gates import Gated, Gates
from scanlib.cells.initial import blocks, uniform
from scanlib.cells.surrogate import Recurrent

Array = Any

#: The released code's matrices are uniform up to this.
LIMIT = 0.05


@dataclass(frozen=True)
class GILR(Cell):
    r"""Gated impulse linear recurrence.

    .. math::
        g_t = \sigma(x_t U + b_g), \quad i_t = \tau(x_t V + b_i), \quad h_t = g_t h_{t-1} + (1 - g_t) i_t

    Parameters: `weight` (m, 2n) = [U, V], `bias` (2n,). State: h. Output: h.

    Attributes
    ----------
    activation : str
        tau: "elu" as in the released code, "tanh" as inside GILR-LSTM, or another of `functions.ACTIVATIONS`.
    gate_bias : float
        What b_g starts with. 0 as released; for sequences of T steps that matter as a whole, about ln T.
    """

    activation: str = "elu"
    gate_bias: float = 0.0
    name: ClassVar[str] = "gilr"

    def __post_init__(self) -> None:
        check_choice(self.name, "activation", self.activation, ACTIVATIONS)

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        return {"weight": (input_size, 2 * hidden_size), "bias": (2 * hidden_size,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        return {
            "weight": uniform(rng, (input_size, 2 * hidden_size), LIMIT),
            "bias": blocks(self.gate_bias, 0.0, size=hidden_size),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        m, width = params["weight"].shape
        return m, width // 2

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        columns = wide(project(x, params["weight"], params["bias"]))
        return Gated(columns, Gates(("decay", "candidate"), self.activation))


@dataclass(frozen=True)
class GILRLSTM(Cell):
    r"""An LSTM whose gates see a GILR in place of its own output.

    .. math::
        \tilde h &= \text{GILR}(x), \quad
        f_t, i_t, o_t = \sigma(\tilde h_{t-1} U + x_t V + b), \quad
        z_t = \tau(\tilde h_{t-1} U_z + x_t V_z + b_z)

        c_t &= f_t c_{t-1} + i_t z_t, \quad h_t = o_t c_t

    with tau = tanh, and no tanh on c. Parameters: `surrogate_weight` (m, 2n), `surrogate_bias` (2n,) of the GILR;
    `weight` (n + m, 4n), whose first n rows are U and whose columns are f, i, o, z; `bias` (4n,). That is
    4n(n + m) + 4n + 2nm + 2n numbers. State: the GILR's h~, and c. Output: h. Coupled, there are no columns i.

    Attributes
    ----------
    forget_bias : float
        What the bias of f starts with: 5 in the released code. `forget_bias(T)` is what long tasks need.
    delayed : bool
        Whether the gates at step t see h~ of step t - 1, as in the paper, or of step t, as in the released code.
    coupled : bool
        Whether i = 1 - f (Greff et al. 2017, arXiv 1503.04069, CIFG): c stays an average of z, and never counts.
    """

    forget_bias: float = 5.0
    delayed: bool = True
    coupled: bool = False
    name: ClassVar[str] = "gilr_lstm"

    @property
    def _gates(self) -> Gates:
        enter = () if self.coupled else ("input",)
        return Gates(("decay", *enter, "output", "candidate"))

    def stand_in(self) -> Surrogate:
        return Recurrent(GILR(activation="tanh"), self.delayed)

    @property
    def memory(self) -> tuple[str, ...]:
        return ("c",)

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        m, n = input_size, hidden_size
        inner, columns = self.stand_in().shapes(m, n), len(self._gates.order) * n
        return {**inner, "weight": (n + m, columns), "bias": (columns,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        others = [0.0] * (len(self._gates.order) - 1)
        return {
            **self.stand_in().init(rng, m, n),
            "weight": uniform(rng, self.shapes(m, n)["weight"], LIMIT),
            "bias": blocks(self.forget_bias, *others, size=n),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        rows, columns = params["weight"].shape
        n = columns // len(self._gates.order)
        return rows - n, n

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        columns = wide(project_pair(s, x, params["weight"], params["bias"]))
        return Gated(columns, self._gates)
