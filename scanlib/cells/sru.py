"""The simple recurrent unit (Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", version 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, Params, check_choice
from scanlib.cells.functions import (
    ACTIVATIONS,
    convex,
    namespace,
    parts,
    project,
    sigmoid,
    split,
    wide,
    zeros,
)
from scanlib.cells.gates import Gated, Gates
from scanlib.cells.initial import blocks, uniform

Array = Any


@dataclass(frozen=True)
class SRU(Cell):
    r"""Light recurrence with a highway connection.

    .. math::
        \tilde x = x W, \quad f = \sigma(x W_f + b_f), \quad r = \sigma(x W_r + b_r)

        c_t = f_t c_{t-1} + (1 - f_t) \tilde x_t, \quad h_t = r_t\, g(c_t) + (1 - r_t)\, \alpha x_t

    Parameters: `weight` (m, 3n) = [W, W_f, W_r] where m = n; else (m, 4n) with a last block W_x, and x W_x in the
    place of x on the highway. `bias` (2n,) = [b_f, b_r]. State: c. Output: h.

    The first version, as the PLR paper has it too. In the second the gates read c_{t-1}, so that it is no linear
    recurrence any more.

    Attributes
    ----------
    activation : str
        g: "identity" or "tanh".
    forget_bias, highway_bias : float
        What b_f and b_r start with. The PLR paper's code has a forget bias of 5.
    rescale : bool
        Whether alpha = sqrt(1 + 2 exp(highway_bias)), which keeps the variance through a stack, or 1.
    """

    activation: str = "identity"
    forget_bias: float = 0.0
    highway_bias: float = 0.0
    rescale: bool = False
    name: ClassVar[str] = "sru"

    def __post_init__(self) -> None:
        check_choice(self.name, "activation", self.activation, ACTIVATIONS)

    @property
    def memory(self) -> tuple[str, ...]:
        return ("c",)

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        count = 3 if input_size == hidden_size else 4
        return {"weight": (input_size, count * hidden_size), "bias": (2 * hidden_size,)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        limit = math.sqrt(3 / input_size)
        return {
            "weight": uniform(rng, self.shapes(input_size, hidden_size)["weight"], limit),
            "bias": blocks(self.forget_bias, self.highway_bias, size=hidden_size),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        return params["weight"].shape[0], params["bias"].shape[0] // 2

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Gated:
        forget_bias, highway_bias = split(params["bias"], 2)
        n = forget_bias.shape[0]
        others = params["weight"].shape[-1] - 2 * n
        of_state, of_highway = parts(params["weight"], 2 * n, others)
        concat, none = namespace(forget_bias).concat, zeros((n,), forget_bias)
        # The recurrence's columns on their own, as its kernel takes them.
        columns = project(x, of_state, concat([none, forget_bias]))
        bias = concat([highway_bias, none]) if others > n else highway_bias
        r, *projected = split(wide(project(x, of_highway, bias)), others // n)
        through = projected[0] if projected else wide(x)
        if self.rescale:
            through = math.sqrt(1 + 2 * math.exp(self.highway_bias)) * through
        r = sigmoid(r)
        g, passed = ACTIVATIONS[self.activation], convex(r, through)
        gates = Gates(("candidate", "decay"), "identity")
        return Gated(wide(columns), gates, lambda c: r * g(c) + passed)
