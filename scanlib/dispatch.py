"""From the type of an array to the adapter of its library, and why.

A library is looked for only if it is imported already: an array of a library that is not cannot exist. What a type
belongs to is found once and kept.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, cast

from scanlib.backends import Adapter
from scanlib.errors import ArrayKindError

ACCEPTED = "NumPy, CuPy, PyTorch, JAX or other array-API arrays"

#: library -> (module that must be imported for its arrays to exist, the class all of them derive from)
LIBRARIES = {
    "numpy": ("numpy", "ndarray"),
    "cupy": ("cupy", "ndarray"),
    "torch": ("torch", "Tensor"),
    "jax": ("jax", "Array"),
}

_kinds: dict[type, str] = {}
_pairs: dict[tuple[type, type], Adapter] = {}


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
    adapter = _pairs.get((type(a), type(x)))
    if adapter is None or h0 is not None or out is not None:
        known, adapter = adapter, _find({"a": a, "x": x, "h0": h0, "out": out})
        if known is None and not _tracing():
            _pairs[type(a), type(x)] = adapter
    return adapter


def _tracing() -> bool:
    """Whether torch.compile is reading this: it cannot put a module into a dictionary."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_dynamo_compiling()


def _find(arguments: dict[str, Any]) -> Adapter:
    kinds = {
        name: kind_of(value, name)
        for name, value in arguments.items()
        if (value is not None or name in ("a", "x")) and not (name != "out" and is_scalar(value))
    }
    if "a" not in kinds and "x" not in kinds:
        raise ArrayKindError(
            f"a and x are both Python scalars; at least one must be an array ({ACCEPTED})."
        )
    if len(set(kinds.values())) > 1:
        given = ", ".join(f"{name} is of {kind}" for name, kind in kinds.items())
        raise ArrayKindError(
            f"All arrays must be of one library, but {given}. Convert them to one first."
        )
    return load(kinds.get("x") or kinds["a"])


def is_scalar(value: Any) -> bool:
    """Whether `value` is a Python number, which takes the dtype of the array it meets."""
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


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
            if found is not None and issubclass(cls, found):
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
            return _keep(value, kind)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return _keep(value, "numpy")  # a NumPy scalar such as numpy.float32(0.9)
    if hasattr(value, "__array_namespace__"):
        return _keep(value, "standard")
    raise ArrayKindError(
        f"{name} is of type {type(value).__module__}.{type(value).__qualname__}; scanlib takes {ACCEPTED}. "
        "Convert it first, for example with numpy.asarray."
    )


def _keep(value: Any, kind: str) -> str:
    _kinds[type(value)] = kind
    return kind
