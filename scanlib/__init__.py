"""Linear recurrences at the price of an add, on NumPy, CuPy, PyTorch, JAX and any array-API array."""

from scanlib.config import show_config
from scanlib.errors import (
    ArrayKindError,
    AxisError,
    AxisTypeError,
    DeviceError,
    DTypeError,
    MissingLibraryError,
    NativeError,
    OutputError,
    ScanlibError,
    ShapeError,
)
from scanlib.recurrence import explain, linear_recurrence, linear_recurrence_vjp

__version__ = "0.1.0"

__all__ = [
    "ArrayKindError",
    "AxisError",
    "AxisTypeError",
    "DTypeError",
    "DeviceError",
    "MissingLibraryError",
    "NativeError",
    "OutputError",
    "ScanlibError",
    "ShapeError",
    "explain",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "show_config",
]
