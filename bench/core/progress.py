"""Says to whoever watches this process what it is at, so that a hang is seen soon and named.

The watcher names a file in GPU_CHECK_HEARTBEAT; without it nothing is said. A beat is one write of a few hundred bytes.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

BYTES = 512
_state = {"title": "", "count": 0}


class Beat(NamedTuple):
    """What the watcher reads: a number that grows, the silence to be allowed from here on, and what is being done."""

    count: int
    patience: float
    what: str


def enter(title: str, patience: float = 0) -> None:
    """A new piece of work; `patience`, in seconds, is for what may take longer than the watcher allows by itself."""
    _state["title"] = title
    beat(patience=patience)


def beat(what: str = "", patience: float = 0) -> None:
    """A sign of life, at least one for each call on the GPU."""
    file = _file()
    if file is None:
        return
    _state["count"] = int(_state["count"]) + 1
    text = f"{_state['count']} {patience} {': '.join(filter(None, (str(_state['title']), what)))}"
    os.pwrite(file, text.encode()[:BYTES].ljust(BYTES), 0)


def read(path: os.PathLike[str] | str) -> Beat:
    """The last beat in a file; count 0 before the first."""
    try:
        with open(path, "rb") as file:
            count, patience, what = file.read(BYTES).decode(errors="replace").split(" ", 2)
    except (OSError, ValueError):
        return Beat(0, 0.0, "")
    return Beat(int(count), float(patience), what.strip())


@functools.cache
def _file() -> int | None:
    path = os.environ.get("GPU_CHECK_HEARTBEAT")
    return os.open(path, os.O_WRONLY | os.O_CREAT, 0o644) if path else None
