"""Diagonal complex state spaces: LRU (Orvieto et al., arXiv 2303.06349) and S5 (Smith et al., arXiv 2208.04933), 2023.

Their decay is one complex number per state, the same at every step: it is handed to the recurrence without axes for
batch and time, and never repeated in memory. Input and output are real, so complex matrices are kept and multiplied as
pairs of real ones; what only scales a matrix is multiplied into it once, not into every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape
from scanlib.cells.base import Cell, CellError, Params, State
from scanlib.cells.functions import (
    complex_of,
    namespace,
    narrow,
    project_to_complex,
    project_to_real,
    wide,
    zeros,
)
from scanlib.cells.gates import Update
from scanlib.cells.initial import hippo, truncated_normal

Array = Any


@dataclass(frozen=True)
class _Diagonal(Cell):
    """h_t = a h_{t-1} + B x_t, y_t = Re(C h_t) + D x_t with complex h.

    Parameters of both: `input` (m, n, 2) = B transposed, real and imaginary parts last; `output` (n, 2, m) = C
    transposed, real and imaginary parts in the middle; `skip` (m,) = D. State: h, complex. Output: y, of m features.
    """

    def output_size(self, input_size: int, hidden_size: int) -> int:
        return input_size

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        m, n = input_size, hidden_size
        return {"input": (m, n, 2), "output": (n, 2, m), "skip": (m,)}

    def sizes(self, params: Params) -> tuple[int, int]:
        m, n, _ = params["input"].shape
        return m, n

    def initial_memory(self, x: Array, input_size: int, hidden_size: int) -> State:
        part = zeros((*x.shape[:-1], hidden_size), wide(x[..., :0]))
        return (complex_of(part, part),)

    def _update(
        self, params: Params, x: Array, decay: Array, scale: tuple[Array, Array], factor: float
    ) -> Update:
        """The update for a decay, rows of B scaled by complex numbers (their parts), and C by a factor."""
        weight = wide(params["input"])
        real, imaginary = weight[:, :, 0], weight[:, :, 1]
        parts = real * scale[0] - imaginary * scale[1], real * scale[1] + imaginary * scale[0]
        weight = narrow(namespace(x).stack(parts, axis=-1), x)

        def read(h: Array) -> Array:
            through = wide(params["skip"]) * wide(x)
            return project_to_real(h, factor * wide(params["output"])) + through

        return Update(decay, project_to_complex(x, weight), read)


@dataclass(frozen=True)
class LRU(_Diagonal):
    r"""Linear recurrent unit.

    .. math::
        \lambda = \exp(-e^\nu + i e^\theta), \quad h_t = \lambda h_{t-1} + e^\gamma \odot (B x_t), \quad
        y_t = \text{Re}(C h_t) + D \odot x_t

    so that :math:`|\lambda| < 1` whatever the parameters. Parameters: `nu`, `theta`, `gamma` (n,), and `input`,
    `output`, `skip` (see `_Diagonal`).

    Attributes
    ----------
    r_min, r_max : float
        The ring in which the eigenvalues start, uniform in area.
    max_phase : float
        Their angles start uniform in [0, max_phase].
    """

    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 6.28
    name: ClassVar[str] = "lru"

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        ring = dict.fromkeys(("nu", "theta", "gamma"), (hidden_size,))
        return {**ring, **super().shapes(input_size, hidden_size)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        # Uniform in (0, 1], so that no logarithm is of 0.
        square = (1 - rng.uniform(size=n)) * (self.r_max**2 - self.r_min**2) + self.r_min**2
        nu = np.log(-0.5 * np.log(np.minimum(square, 1 - 1e-12)))
        return {
            "nu": nu,
            "theta": np.log(self.max_phase * (1 - rng.uniform(size=n))),
            "gamma": 0.5 * np.log(-np.expm1(-2 * np.exp(nu))),
            "input": rng.standard_normal((m, n, 2)) / math.sqrt(2 * m),
            "output": rng.standard_normal((n, 2, m)) / math.sqrt(n),
            "skip": rng.standard_normal(m),
        }

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Update:
        nu, theta, gamma = (wide(params[name]) for name in ("nu", "theta", "gamma"))
        xp = namespace(x)
        size, angle, scale = xp.exp(-xp.exp(nu)), xp.exp(theta), xp.exp(gamma)
        decay = complex_of(size * xp.cos(angle), size * xp.sin(angle))
        return self._update(params, x, decay, (scale, xp.zeros_like(scale)), 1.0)


@dataclass(frozen=True)
class S5(_Diagonal):
    r"""A diagonal state space, discretised by zero-order hold.

    .. math::
        \bar\Lambda = e^{\Lambda \Delta}, \quad \bar B = \Lambda^{-1}(\bar\Lambda - 1) B, \quad
        h_t = \bar\Lambda h_{t-1} + \bar B x_t, \quad y_t = 2\,\text{Re}(C h_t) + D \odot x_t

    with :math:`\Delta = e^{\text{log\_step}}`, and without the 2 where `conjugate` is off. Parameters: `eigenvalues`
    (2, n) = real and imaginary parts of Lambda, `log_step` (n,), and `input`, `output`, `skip` (see `_Diagonal`).

    :math:`(e^z - 1) / z` is computed from expm1 of z's real part, and as 1 at 0.

    Attributes
    ----------
    conjugate : bool
        Whether the n states stand for 2n in conjugate pairs.
    blocks : int
        The eigenvalues start as those of so many copies of the normal part of the HiPPO-LegS matrix.
    dt_min, dt_max : float
        The steps start between these, uniform in the logarithm.
    """

    conjugate: bool = True
    blocks: int = 1
    dt_min: float = 0.001
    dt_max: float = 0.1
    name: ClassVar[str] = "s5"

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        own = {"eigenvalues": (2, hidden_size), "log_step": (hidden_size,)}
        return {**own, **super().shapes(input_size, hidden_size)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        if n % self.blocks:
            raise CellError(f"{n} hidden units do not divide into {self.blocks} blocks.")
        full = n * (2 if self.conjugate else 1)
        kept, vectors = hippo(full // self.blocks, n // self.blocks)
        values = np.tile(kept, self.blocks)
        basis = np.kron(np.eye(self.blocks), vectors)  # (full, n)
        b = basis.conj().T @ truncated_normal(rng, (full, m), 1 / math.sqrt(full))
        c = truncated_normal(rng, (2, m, full), 1 / math.sqrt(full))
        c = (c[0] + 1j * c[1]) @ basis
        return {
            "eigenvalues": np.stack([values.real, values.imag]),
            "log_step": rng.uniform(math.log(self.dt_min), math.log(self.dt_max), n),
            "input": np.stack([b.real.T, b.imag.T], axis=-1),
            "output": np.stack([c.real.T, c.imag.T], axis=1),
            "skip": rng.standard_normal(m),
        }

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Update:
        xp, values = namespace(x), wide(params["eigenvalues"])
        step = xp.exp(wide(params["log_step"]))
        re, im = values[0, :] * step, values[1, :] * step
        size, sine = xp.exp(re), xp.sin(im)
        decay = complex_of(size * xp.cos(im), size * sine)
        # expm1(re + i im), without the cancellation of cos(im) - 1.
        half = xp.sin(im / 2)
        above, beside = xp.expm1(re) * xp.cos(im) - 2 * half * half, size * sine
        square = re * re + im * im
        small = square < 1e-30
        square = xp.where(small, xp.ones_like(square), square)
        # (e^z - 1) / z = (above + i beside)(re - i im) / |z|^2, times the step.
        one = xp.ones_like(square)
        real = xp.where(small, one, (above * re + beside * im) / square)
        imaginary = xp.where(small, 0 * one, (beside * re - above * im) / square)
        scale = step * real, step * imaginary
        return self._update(params, x, decay, scale, 2.0 if self.conjugate else 1.0)
