"""Arrays that are not taken although they look like some that are, and what to do with them."""

from __future__ import annotations

import sys
from typing import Any

from scanlib.errors import ArrayKindError
from scanlib.roles import INITIAL

ACCEPTED = "NumPy, CuPy, PyTorch, JAX or other array-API arrays"

#: The attributes by which a subclass of ndarray says what NumPy's functions make of it and have to keep of it.
PROTOCOLS = ("__array_ufunc__", "__array_function__", "__array_wrap__", "__array_finalize__")
#: Subclasses of NumPy's own whose numbers mean what they mean in a plain array.
PLAIN = ("memmap", "recarray", "matrix")


def refuse_meaning(value: Any, name: str, base: type) -> None:
    """Raise `ArrayKindError` for a subclass of `base`, an ndarray, that carries a mask, a unit or the like.

    A recurrence reads memory: what a subclass adds to the numbers would be lost without a word. A subclass says that
    it adds something by one of `PROTOCOLS`; one that has them from `base` or a class of `PLAIN` is a view of numbers.
    """
    cls, module = type(value), base.__module__.partition(".")[0]
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    if isinstance(value, masked):
        raise ArrayKindError(
            f"{name} is a masked array ({type_name(cls)}), and its mask would be lost: each step of a recurrence needs "
            f"the one before. Say what stands in place of masked elements, for example {name}.filled(0)."
        )
    plain = {getattr(sys.modules[module], known, None) for known in PLAIN} | {base, object}
    for protocol in PROTOCOLS:
        if next((c for c in cls.__mro__ if protocol in c.__dict__), base) not in plain:
            raise ArrayKindError(
                f"{name} is of type {type_name(cls)}, a subclass of {module}.ndarray that defines {protocol}: what it "
                f"adds to the numbers, as a unit does, would be lost. Pass {module}.asarray({name}), and give the "
                "result its meaning back yourself."
            )


def not_taken(value: Any, name: str) -> ArrayKindError:
    """The error for something of no library that scanlib serves."""
    cls = type(value)
    # Of a property no value is asked for.
    is_array = any(hasattr(cls, p) for p in ("shape", *PROTOCOLS[:2])) or "shape" in getattr(
        value, "__dict__", ()
    )
    advice = "Convert it first, for example with numpy.asarray."
    if is_array:
        advice = (
            "If its values are in memory, pass the array that holds them, which its library gives. If they are "
            "computed or loaded when asked for, go through time stretch by stretch: load one, and pass its final state "
            f"(return_final=True) to the next as {INITIAL}."
        )
    return ArrayKindError(f"{name} is of type {type_name(cls)}; scanlib takes {ACCEPTED}. {advice}")


def type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
