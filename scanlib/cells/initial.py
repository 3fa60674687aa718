"""Random initial values, in float64."""

from __future__ import annotations

import math

import numpy as np

from scanlib.call import Shape

Values = np.ndarray


def uniform(rng: np.random.Generator, shape: Shape, limit: float) -> Values:
    return rng.uniform(-limit, limit, shape)


def glorot(rng: np.random.Generator, fan_in: int, fan_out: int, blocks: int) -> Values:
    """`blocks` matrices side by side, each uniform with Glorot's limit sqrt(6 / (fan_in + fan_out))."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return uniform(rng, (fan_in, blocks * fan_out), limit)


def linear(rng: np.random.Generator, fan_in: int, width: int) -> Values:
    """Uniform up to 1 / sqrt(fan_in), as torch.nn.Linear."""
    return uniform(rng, (fan_in, width), 1 / math.sqrt(fan_in))


def blocks(*values: float, size: int) -> Values:
    """A vector of blocks of `size` equal entries: the biases of gates that lie side by side."""
    return np.repeat(np.array(values, float), size)


def forget_bias(steps: int) -> float:
    """A forget gate's bias that keeps a memory over a sequence of this length: ln(steps) + 1.

    sigmoid(b)^T = (1 + e^-b)^-T is about exp(-T e^-b), so with b = ln T + 1 it is exp(-1/e) = 0.69 at the end: the
    signal of the first step is still there, and so is its gradient. With the released code's b = 5 it is
    1e-3 for T = 1024.
    """
    return math.log(steps) + 1


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Values:
    """A random matrix whose columns, or rows where those are fewer, are orthonormal; uniform among all."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T


def truncated_normal(rng: np.random.Generator, shape: Shape, deviation: float) -> Values:
    """Normal values cut at two deviations and scaled to the deviation asked for, as LeCun's initialisation in JAX."""
    values = rng.standard_normal(shape)
    while np.any(beyond := np.abs(values) > 2):
        values[beyond] = rng.standard_normal(np.count_nonzero(beyond))
    return values * (deviation / 0.87962566103423978)


def hippo(size: int, count: int) -> tuple[Values, Values]:
    """Eigenvalues and eigenvectors of the normal part of the HiPPO-LegS matrix, the `count` lowest in imaginary part.

    The matrix is -1/2 plus a skew-symmetric one, so its eigenvalues are -1/2 + i w and its eigenvectors unitary.
    """
    root = np.sqrt(2 * np.arange(size) + 1)
    lower = np.tril(np.outer(root, root), -1)
    skew = (lower.T - lower) / 2
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    return -0.5 + 1j * frequencies[:count], vectors[:, :count]
