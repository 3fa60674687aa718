"""NumPy's own ways of `scanlib.backends.array_functions`."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import numpy as _namespace

from scanlib.backends import array_functions
from scanlib.backends.array_functions import (  # noqa: F401
    at,
    complex_of,
    convex,
    device_of,
    elu,
    identity,
    part,
    parts,
    positive,
    project,
    project_pair,
    sigmoid,
    silu,
    softplus,
    sqrt_capped,
    stop_gradient,
    tanh,
)

Array = Any


def namespace(array: Array) -> Any:
    return _namespace


def project_to_complex(x: Array, weight: Array) -> Array:
    # Pairs of real numbers are seen as complex ones, and nothing is copied.
    m, n, _ = weight.shape
    y = array_functions.project(x, weight.reshape(m, 2 * n))
    if y.dtype.itemsize == 2:
        y = y.astype(np.float32)
    return y.view(np.result_type(y.dtype, np.complex64))


def project_to_real(h: Array, weight: Array) -> Array:
    n, _, m = weight.shape
    rows = np.stack([weight[:, 0, :], -weight[:, 1, :]], axis=1).reshape(2 * n, m)
    return array_functions.project(np.ascontiguousarray(h).view(weight.dtype), rows)


def running_maximum(v: Array, axis: int, start: Array | None = None) -> Array:
    if start is None and v.shape[axis]:
        return np.maximum.accumulate(v, axis=axis)
    return array_functions.running_maximum(v, axis, start)
