"""The quasi-recurrent network (Bradbury et al. 2017, arXiv 1611.01576)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, CellError, Params, Surrogate, check_choice
from scanlib.cells.functions import project, project_pair, wide
from scanlib.cells.gates import Gated, Gates
from scanlib.cells.initial import blocks, glorot
from scanlib.cells.surrogate import Window

Array = Any
#: Gates of each pooling, in the order of their columns, which follow the candidate's.
POOLINGS = {
    "f": ("decay",),
    "fo": ("decay", "output"),
    "ifo": ("decay", "output", "input"),
}


@dataclass(frozen=True)
class QRNN(Cell):
    r"""Gates from a causal convolution over the last inputs, then a pooling that is a linear recurrence.

    With :math:`[z, f, o, i] = \text{the last } k \text{ inputs} \cdot W + b`, tanh on z and a sigmoid on the gates:

    .. math::
        \text{f:}   &\quad h_t = f_t h_{t-1} + (1 - f_t) z_t \\
        \text{fo:}  &\quad c_t = f_t c_{t-1} + (1 - f_t) z_t, \quad h_t = o_t c_t \\
        \text{ifo:} &\quad c_t = f_t c_{t-1} + i_t z_t, \quad h_t = o_t c_t

    Parameters: `weight` (k m, p n), whose rows are the taps from the oldest input to the present one, m each, and whose
    columns are z, f, then o, then i as far as the pooling has them; `bias` (p n,). State: the last k - 1 inputs side
    by side (for k > 1), and c. Output: h.

    f is the share that is *kept*; some implementations call f the share that is renewed.

    Attributes
    ----------
    width : int
        k: how many inputs each gate sees, the present one included.
    pooling : str
        "f", "fo" or "ifo".
    forget_bias : float
        What the bias of f starts with.
    """

    width: int = 2
    pooling: str = "fo"
    forget_bias: float = 0.0
    name: ClassVar[str] = "qrnn"

    def __post_init__(self) -> None:
        check_choice(self.name, "pooling", self.pooling, POOLINGS)
        if self.width < 1:
            raise CellError(
                f"A QRNN of width {self.width!r} sees no input; at least 1 is needed, the present one alone."
            )

    def stand_in(self) -> Surrogate | None:
        return Window(self.width - 1) if self.width > 1 else None

    @property
    def memory(self) -> tuple[str, ...]:
        return ("c",)

    @property
    def _blocks(self) -> int:
        return 1 + len(POOLINGS[self.pooling])

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        columns = self._blocks * hidden_size
        return {"weight": (self.width * input_size, columns), "bias": (columns,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        return {
            "weight": glorot(rng, self.width * input_size, hidden_size, self._blocks),
            "bias": blocks(0, self.forget_bias, 0, 0, size=hidden_size)[
                : self._blocks * hidden_size
            ],
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        rows, columns = params["weight"].shape
        return rows // self.width, columns // self._blocks

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        weight, bias = params["weight"], params["bias"]
        y = project(x, weight, bias) if s is None else project_pair(s, x, weight, bias)
        return Gated(wide(y), Gates(("candidate", *POOLINGS[self.pooling])))
