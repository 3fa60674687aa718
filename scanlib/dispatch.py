"""From the type of an array to the adapter of its library, and why.

A library is looked for only if it is imported already: an array of a library that is not cannot exist. What a type
belongs to is found once and kept.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from scanlib.errors import ArrayKindError, MissingLibraryError
from scanlib.problem import DTYPES
from scanlib.refused import ACCEPTED, not_taken, refuse_meaning

try:
    from scanlib.backends import Adapter
except ModuleNotFoundError as error:
    if error.name != "scanlib.backends":
        raise
    # The folder lies beside this one in a checkout and inside it once installed.
    raise MissingLibraryError(
        f"Python found scanlib in {Path(__file__).parent}, a checkout's folder that is only part of the package: it "
        "looks first in the folder it is started in, and what is installed lies elsewhere. Start it in another folder "
        "or as python -P; or install the checkout where it is, with pip install --editable ."
    ) from None

#: library -> (module that must be imported for its arrays to exist, the class all of them derive from)
LIBRARIES = {
    "numpy": ("numpy", "ndarray"),
    "cupy": ("cupy", "ndarray"),
    "torch": ("torch", "Tensor"),
    "jax": ("jax", "Array"),
}

_kinds: dict[type, str] = {}
_adapters: dict[tuple[type, ...], Adapter] = {}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The path a call takes: made by `scanlib.explain`, readable with `print`.

    Attributes
    ----------
    library
        The array library whose adapter serves the call.
    device
        Where the arrays are and the result will be.
    path
        What runs: "libscanlib (cpu)", a CUDA kernel's name, or a fallback's.
    kernel
        The kernel, how it walks the data and how the work is cut.
    notes
        Copies and conversions this call makes, and why a faster path is not taken; empty if nothing is lost.
    """

    library: str
    device: str
    path: str
    kernel: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"library  {self.library}",
            f"device   {self.device}",
            f"path     {self.path}",
            f"kernel   {self.kernel}",
        ]
        return "\n".join(lines + [f"note     {note}" for note in self.notes])


def adapter_for(a: Any, x: Any, h0: Any = None, out: Any = None) -> Adapter:
    """The adapter for a call with these arguments; raises `ArrayKindError` where they do not belong together."""
    if h0 is None and out is None:
        types: tuple[type, ...] = type(a), type(x)
    else:
        types = type(a), type(x), type(h0), type(out)
    return _adapters.get(types) or _find(types, {"a": a, "x": x, "h0": h0, "out": out})


def adapter_for_gradient(grad_h: Any, a: Any, h: Any, h0: Any, grad_final: Any) -> Adapter:
    """The same for `linear_recurrence_vjp`."""
    given = {"grad_h": grad_h, "a": a, "h": h, "h0": h0, "grad_final": grad_final}
    types = tuple(map(type, given.values()))
    return _adapters.get(types) or _find(types, given)


def _tracing() -> bool:
    """Whether torch.compile is reading this: it cannot put a module into a dictionary."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_dynamo_compiling()


#: The arguments that may be left out.
OPTIONAL = ("h0", "out", "grad_final")


def _find(types: tuple[type, ...], arguments: dict[str, Any]) -> Adapter:
    kinds = {
        name: kind_of(value, name)
        for name, value in arguments.items()
        if (value is not None or name not in OPTIONAL) and not (name != "out" and is_number(value))
    }
    if not kinds.keys() - OPTIONAL:
        numbers = " and ".join(name for name in arguments if name not in OPTIONAL)
        raise ArrayKindError(f"{numbers} are scalars; at least one must be an array ({ACCEPTED}).")
    if len(set(kinds.values())) > 1:
        given = ", ".join(f"{name} is of {kind}" for name, kind in kinds.items())
        raise ArrayKindError(
            f"All arrays must be of one library, but {given}. Convert them to one first."
        )
    adapter = load(next(iter(kinds.values())))
    if not _tracing():
        _adapters[types] = adapter
    return adapter


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


def load(kind: str) -> Adapter:
    """Import the adapter of a library named in `LIBRARIES`, or "standard"."""
    # torch.compile traces through an import statement, but not through import_module.
    if kind == "torch":
        from scanlib.backends import torch as adapter

        return cast(Adapter, adapter)
    return cast(Adapter, importlib.import_module(f"scanlib.backends.{kind}"))


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
