"""From the types of the arguments to the adapter of their library."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

from scanlib.errors import ArrayKindError, MissingLibraryError
from scanlib.kinds import is_number, kind_of
from scanlib.refused import ACCEPTED
from scanlib.roles import OPTIONAL, ROLES

try:
    from scanlib.backends import Adapter, Functions
except ModuleNotFoundError as error:
    if error.name != "scanlib.backends":
        raise
    # The folder lies beside this one in a checkout and inside it once installed.
    raise MissingLibraryError(
        f"Python found scanlib in {Path(__file__).parent}, a checkout's folder that is only part of the package: it "
        "looks first in the folder it is started in, and what is installed lies elsewhere. Start it in another folder "
        "or as python -P; or install the checkout where it is, with pip install --editable ."
    ) from None

_adapters: dict[tuple[type, ...], Adapter] = {}


def adapter_for(names: tuple[str, ...], *arguments: Any) -> Adapter:
    """The adapter for a call with these arguments; raises `ArrayKindError` where they do not belong together.

    Those that may be left out (`roles.OPTIONAL`, and out) may be None.
    """
    types = tuple(map(type, arguments))
    return _adapters.get(types) or _find(types, dict(zip(names, arguments, strict=True)))


def adapter_for_two(a: Any, x: Any) -> Adapter:
    """The same for the two that every call has, in less time."""
    types = type(a), type(x)
    return _adapters.get(types) or _find(types, {"a": a, "x": x})


def tracing() -> bool:
    """Whether torch.compile is reading this: it cannot put a module into a dictionary."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_dynamo_compiling()


#: The arguments that may be left out.
_OPTIONAL = {role.name for role in ROLES if (role.forward | role.backward) & OPTIONAL} | {"out"}


def _find(types: tuple[type, ...], arguments: dict[str, Any]) -> Adapter:
    kinds = {
        name: kind_of(value, name)
        for name, value in arguments.items()
        if (value is not None or name not in _OPTIONAL) and not (name != "out" and is_number(value))
    }
    if not kinds.keys() - _OPTIONAL:
        numbers = " and ".join(name for name in arguments if name not in _OPTIONAL)
        raise ArrayKindError(f"{numbers} are scalars; at least one must be an array ({ACCEPTED}).")
    if len(set(kinds.values())) > 1:
        given = ", ".join(f"{name} is of {kind}" for name, kind in kinds.items())
        raise ArrayKindError(
            f"All arrays must be of one library, but {given}. Convert them to one first."
        )
    adapter = load(next(iter(kinds.values())))
    if not tracing():
        _adapters[types] = adapter
    return adapter


def load(kind: str) -> Adapter:
    """Import the adapter of a library named in `kinds.LIBRARIES`, or "standard"."""
    # torch.compile traces through an import statement, but not through import_module.
    if kind == "torch":
        from scanlib.backends import torch as adapter

        return cast(Adapter, adapter)
    return cast(Adapter, importlib.import_module(f"scanlib.backends.{kind}"))


def adapter_of(array: Any) -> Adapter:
    """The adapter of an array's library."""
    return load(kind_of(array))


def functions_for(array: Any) -> Functions:
    """The functions of an array's library that cells need beside those of the array API standard."""
    return adapter_of(array).functions
