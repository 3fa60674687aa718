"""Run a module as on a machine that lacks some packages: `python tests/without.py torch,jax pytest --collect-only`.

They are not found, and neither are their distributions, so that plugins of pytest are not either.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import re
import runpy
import sys
from collections.abc import Iterator
from typing import Any


class Finder:
    """Every finder of this process, but for the packages named."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.finders = list(sys.meta_path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in self.names):
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        hidden = {_distribution(name) for name in self.names}
        for finder in self.finders:
            for found in getattr(finder, "find_distributions", lambda *_: ())(*context):
                if _distribution(found.metadata["Name"]).removeprefix("pytest-") not in hidden:
                    yield found

    def invalidate_caches(self) -> None:
        importlib.machinery.PathFinder.invalidate_caches()


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    _, without, module, *arguments = sys.argv
    sys.meta_path[:] = [Finder(without.split(","))]  # type: ignore[list-item]
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
