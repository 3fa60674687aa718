"""What a value is: a number, or an array of which library.

A library is looked for only if it is imported already: an array of a library that is not cannot exist. What a type
belongs to is found once and kept.
"""

from __future__ import annotations

import sys
from typing import Any

from scanlib.call import DTYPES
from scanlib.refused import not_taken, refuse_meaning

#: library -> (module that must be imported for its arrays to exist, the class all of them derive from)
LIBRARIES = {
    "numpy": ("numpy", "ndarray"),
    "cupy": ("cupy", "ndarray"),
    "torch": ("torch", "Tensor"),
    "jax": ("jax", "Array"),
}

_kinds: dict[type, str] = {}


def is_scalar(value: Any) -> bool:
    """Whether `value` is a Python number, which takes the dtype of the array it meets."""
    if not isinstance(value, (int, float, complex)) or isinstance(value, bool):
        return False
    return type(value) in (int, float, complex) or not _is_numpy_scalar(value)


def is_number(value: Any) -> bool:
    """Whether `value` is a Python number or a NumPy scalar: neither belongs to a library, all of them take both."""
    return is_scalar(value) or _is_numpy_scalar(value)


def python_number(value: Any) -> Any:
    """A NumPy scalar as the Python number that most libraries take it for; anything else as it is."""
    if not _is_numpy_scalar(value):
        return value
    return {"c": complex, "i": int, "u": int}.get(value.dtype.kind, float)(value)


def _is_numpy_scalar(value: Any) -> bool:
    """Whether this is a number of one of NumPy's types, of which `numpy.float64` is a subclass of `float`."""
    generic = getattr(sys.modules.get("numpy"), "generic", ())
    return isinstance(value, generic) and (value.dtype.kind in "iufc" or value.dtype.name in DTYPES)


def kind_of(value: Any, name: str = "the argument") -> str:
    """The library `value` belongs to: a key of `LIBRARIES`, or "standard" for other array-API arrays."""
    return _known(type(value)) or _classify(value, name)


def _known(cls: type) -> str:
    """The library of all values of a type, as far as the type tells; else empty."""
    kind = _kinds.get(cls)
    if kind is None:
        for library, (module, base) in LIBRARIES.items():
            found = getattr(sys.modules.get(module), base, None)
            # A subclass of an ndarray may carry a meaning, which is told from a value.
            if found is not None and (
                cls is found if base == "ndarray" else issubclass(cls, found)
            ):
                kind = _kinds[cls] = library
    return kind or ""


# What torch.compiler.assume_constant_result sets: run in tracing, not traced. A program that has looked at which
# modules are imported would be compiled again after each import.
_known._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _classify(value: Any, name: str) -> str:
    """The same from a value, for types that do not tell, such as JAX's tracers."""
    for kind, (module, base) in LIBRARIES.items():
        cls = getattr(sys.modules.get(module), base, None)
        if cls is not None and isinstance(value, cls):
            if base == "ndarray" and type(value) is not cls:
                refuse_meaning(value, name, cls)
            return _keep(value, kind)
    if isinstance(value, getattr(sys.modules.get("numpy"), "generic", ())):
        return _keep(value, "numpy")
    if hasattr(value, "__array_namespace__"):
        return _keep(value, "standard")
    raise not_taken(value, name)


def _keep(value: Any, kind: str) -> str:
    _kinds[type(value)] = kind
    return kind
