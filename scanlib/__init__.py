"""Linear recurrences at the price of an add, on NumPy, CuPy, PyTorch, JAX and any array-API array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scanlib.config import show_config
from scanlib.errors import (
    ArrayKindError,
    AxisError,
    AxisTypeError,
    DeviceError,
    DTypeError,
    MissingLibraryError,
    NativeError,
    OffsetsError,
    OutputError,
    ScanlibError,
    ShapeError,
)
from scanlib.lazy import attributes
from scanlib.recurrence import explain, linear_recurrence, linear_recurrence_vjp

if TYPE_CHECKING:
    from scanlib import cells as cells
    from scanlib import layers as layers

__version__ = "0.1.0"

__all__ = [
    "ArrayKindError",
    "AxisError",
    "AxisTypeError",
    "DTypeError",
    "DeviceError",
    "MissingLibraryError",
    "NativeError",
    "OffsetsError",
    "OutputError",
    "ScanlibError",
    "ShapeError",
    "explain",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "show_config",
]

# Imported when first asked for: both need NumPy, which `import scanlib` does not.
__getattr__, __dir__ = attributes(__name__, {"cells": "numpy", "layers": "numpy"})
