"""What the experiments share: results written as they come, checkpoints, a progress bar, and where it all ran."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core import machine

Row = dict[str, Any]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every experiment takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=default_folder(),
        help="folder for results (default %(default)s)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="run again what the results already hold, from the start",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=float("inf"),
        help="seconds after which the command stops, to be called again; no limit by default",
    )
    return parser


def default_folder() -> Path:
    """Where this machine's results are kept: by its GPU if it has one."""
    gpu = machine.gpu()["name"]
    name = machine.device_name() if gpu is None else machine.folder_name(gpu)
    return machine.ROOT / "bench" / "results" / name / "paper"


class Results:
    """The rows of an experiment in a JSON file, written after each one, so that a run that was stopped goes on there.

    A row is found again by its key, the settings it was measured with, and carries the commit and the time of its own
    measurement.
    """

    def __init__(self, folder: Path, name: str, fresh: bool = False) -> None:
        self.path = folder / f"{name}.json"
        self.fresh = fresh
        self.report: dict[str, Any] = {"schema": 1, "experiment": name, "rows": []}
        if self.path.exists():
            self.report = json.loads(self.path.read_text())
        self.report |= machine.where()
        self._made: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        return list(self.report["rows"])

    def find(self, key: Row) -> Row | None:
        """The row measured with these settings; with `fresh` only if by this process."""
        rows = self._made if self.fresh else self.report["rows"]
        return next((row for row in rows if row["key"] == key), None)

    def add(self, key: Row, result: Row) -> Row:
        """Keep a row, in the place of an older one with its settings, and write the file."""
        commit, dirty = machine.commit()
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"key": key, **result, "commit": commit, "dirty": dirty, "date": date}
        others = [other for other in self.report["rows"] if other["key"] != key]
        self.report["rows"] = [*others, row]
        self._made.append(row)
        self._write()
        return row

    def summarize(self, table: str) -> None:
        """Keep the table that the rows make, in Markdown, for the documentation."""
        self.report["table"] = table
        self._write()

    def _write(self) -> None:
        replace(self.path, (json.dumps(self.report, indent=1) + "\n").encode())


class Checkpoint:
    """The state of one unfinished run, a tree of NumPy arrays and numbers, written at most every `seconds`."""

    def __init__(self, path: Path, fresh: bool = False, seconds: float = 15.0) -> None:
        self.path, self.seconds = path, seconds
        self._saved = time.monotonic()
        if fresh:
            self.remove()

    def load(self) -> Any:
        """The state saved last, or None."""
        return pickle.loads(self.path.read_bytes()) if self.path.exists() else None

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved >= self.seconds

    def save(self, state: Any) -> None:
        replace(self.path, pickle.dumps(state))
        self._saved = time.monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that whoever stops the program finds the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    os.replace(beside, path)


class Bar:
    """A progress bar: tqdm's where it is installed, else a line of text every few seconds."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._bar: Any = None
        self._printed = time.monotonic()
        if importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=title, ncols=110, leave=True)

    def advance(self, note: str, steps: int = 1) -> None:
        self.done += steps
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._printed > 5:
            self._printed = time.monotonic()
            print(f"{self.title}: {self.done} of {self.total}, {note}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A `Bar` for the length of a with statement."""
    shown = Bar(title, total, done)
    try:
        yield shown
    finally:
        shown.close()


def pyplot() -> Any:
    """matplotlib.pyplot drawing to files, or None where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot as found

    return found
