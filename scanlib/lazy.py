"""Submodules that are attributes of their package before they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any


def attributes(
    package: str, modules: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports these submodules when they are first asked for.

    Parameters
    ----------
    package
        Its name.
    modules
        Submodule -> the library without which it cannot be imported. `dir` lists those whose library is there.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:  # noqa: N807
        there = {name for name, library in modules.items() if _installed(library)}
        return sorted(set(vars(sys.modules[package])) | there)

    return __getattr__, __dir__


def _installed(library: str) -> bool:
    return library in sys.modules or importlib.util.find_spec(library) is not None
