"""The real-gated linear recurrent unit of Griffin (De et al. 2024, arXiv 2402.19427)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, CellError, Params, check_choice
from scanlib.cells.functions import (
    identity,
    namespace,
    project,
    project_heads,
    sigmoid,
    softplus,
    sqrt_capped,
    wide,
    zeros,
)
from scanlib.cells.gates import Update

Array = Any
#: c in the exponent of the decay.
SCALE = 8.0


@dataclass(frozen=True)
class RGLRU(Cell):
    r"""RG-LRU: a decay that a gate scales in the logarithm, and an input scaled to keep the variance.

    .. math::
        r = \sigma(x W_a + b_a), \quad i = \sigma(x W_x + b_x), \quad
        \log a = -8\, \text{softplus}(\Lambda)\, r

        h_t = a_t h_{t-1} + \sqrt{1 - a_t^2}\; i_t x_t

    W_a and W_x are block-diagonal: each of the heads sees its own n / heads features. Parameters: `decay` (n,) =
    Lambda; `weight` (heads, n/heads, 2n/heads) = [W_a, W_x] head by head; `bias` (heads, 2n/heads). Where m != n also
    `input` (m, n), and x times that in the place of x: the linear layer that leads to the unit in Griffin's recurrent
    block. State and output: h.

    1 - a^2 is -expm1(2 log a), exact near a = 1, and the root's slope is at most 1000, as in the authors' code. At the
    start of a segment (`reset`) the input enters unscaled, as there. Their code takes the very first step of a sequence
    for one; do so with reset[..., 0] = True.

    Attributes
    ----------
    heads : int
    init_decay : str
        "code": a at r = 1, c-th root taken, has a square uniform in [.9^2, .999^2], as in the released code; so a
        itself is between .43 and .992. "paper": a at r = 1 is uniform in [.9, .999], as printed.
    """

    heads: int = 1
    init_decay: str = "code"
    name: ClassVar[str] = "rg_lru"

    def __post_init__(self) -> None:
        check_choice(self.name, "init_decay", self.init_decay, ("code", "paper"))

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        n, heads = hidden_size, self.heads
        if n % heads:
            raise CellError(
                f"The hidden units of an RG-LRU are a multiple of its {heads} heads; given are {n} hidden units."
            )
        width = n // heads
        own = {"decay": (n,), "weight": (heads, width, 2 * width), "bias": (heads, 2 * width)}
        return own if input_size == n else {**own, "input": (input_size, n)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        shapes = self.shapes(input_size, hidden_size)
        if self.init_decay == "code":
            rate = -np.log(np.sqrt(rng.uniform(0.9**2, 0.999**2, hidden_size) + 1e-8))
        else:
            rate = -np.log(rng.uniform(0.9, 0.999, hidden_size)) / SCALE
        width = shapes["weight"][1]
        values = {
            "decay": np.log(np.expm1(rate)),  # the inverse of softplus
            "weight": rng.normal(0, math.sqrt(1 / width), shapes["weight"]),
            "bias": np.zeros(shapes["bias"]),
        }
        if "input" in shapes:
            values["input"] = rng.normal(0, math.sqrt(1 / input_size), shapes["input"])
        return values

    def sizes(self, params: Params) -> tuple[int, int]:
        n = params["decay"].shape[0]
        return params["input"].shape[0] if "input" in params else n, n

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Update:
        if "input" in params:
            x = project(x, params["input"])
        r, i = project_heads(x, params["weight"], params["bias"])
        log_a = (-SCALE * softplus(wide(params["decay"]))) * sigmoid(wide(r))
        xp = namespace(log_a)
        scale = sqrt_capped(-xp.expm1(2 * log_a))
        if reset is not None:
            scale = xp.where(xp.expand_dims(reset, axis=-1), 1 + zeros((), scale), scale)
        return Update(xp.exp(log_a), scale * sigmoid(wide(i)) * wide(x), identity)
