"""What the stages on a GPU measure, as lines of JSON, each written when it is known: a process killed loses nothing.

A line has the stage it is of, and is a row of results, or says what failed, what was left out and why, or how many
programs had to be compiled. `read` puts the lines of a file together again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.core import progress

Row = dict[str, Any]
Job = tuple[str, Callable[[], Row | list[Row]]]
FILE = "results.jsonl"
COULD_NOT = 3
MOST_FAILURES = 3  # in a row: after an error of the device nothing works


def arguments(name: str, doc: str | None, seconds: float = 120) -> argparse.ArgumentParser:
    """A parser with what every stage takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=doc)
    parser.add_argument("--output", type=Path, required=True, help="the file to append to")
    parser.add_argument("--seconds", type=float, default=seconds, help="when to stop (%(default)s)")
    parser.add_argument("--log2", type=int, default=26, help="elements as a power of two")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="separated by commas")
    parser.add_argument("--libraries", default="torch,cupy,jax", help="separated by commas")
    return parser


class Report:
    """The lines of one stage, and its clock."""

    _compiled = 0

    def __init__(self, stage: str, path: Path, seconds: float = float("inf")) -> None:
        self.stage, self.path = stage, path
        self.end = time.monotonic() + seconds
        self.failures = 0
        self.rows: list[Row] = []

    def write(self, **line: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"stage": self.stage, **line}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)

    def row(self, row: Row) -> None:
        self.write(row=row)
        self.rows.append(row)
        print(_line(row), flush=True)

    def left_out(self, what: str, why: str) -> None:
        self.write(left_out=what, why=why)
        print(f"left out: {what}, {why}", flush=True)

    def failed(self, what: str, error: Exception | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.failures += 1
        self.write(failed=what, error=text[:2000])
        print(f"FAILED {what}: {text}", flush=True)

    def run(self, jobs: Iterable[Job], until: float | None = None) -> None:
        """Measure every job while there is time, and go on where one gives wrong values or an error."""
        in_a_row, left, end = 0, 0, self.end if until is None else min(until, self.end)
        for title, job in jobs:
            if time.monotonic() > end or in_a_row == MOST_FAILURES:
                left += 1
                continue
            progress.enter(f"{self.stage}, {title}")
            try:
                rows = job()
            except Exception as error:
                in_a_row += 1
                self.failed(title, error)
                continue
            in_a_row = 0
            for row in rows if isinstance(rows, list) else [rows]:
                self.row(row)
        if left:
            why = "no time was left"
            if in_a_row == MOST_FAILURES:
                why = f"after {MOST_FAILURES} failures in a row"
            self.left_out(f"{left} of the comparisons", why)

    def close(self) -> int:
        """The exit status of the stage: 1 where something failed. Says what had to be compiled since the last stage."""
        from scanlib import compiler  # what reads results needs no scanlib

        count = len(compiler.compiled)
        new, Report._compiled = count - Report._compiled, count
        self.write(compiled=new)
        print(
            f"{self.stage}: {len(self.rows)} results, {self.failures} failed, {new} programs compiled",
            flush=True,
        )
        return 1 if self.failures else 0


def could_not(report: Report, why: str) -> int:
    """The exit status of a stage that cannot run here."""
    report.write(left_out="everything", why=why)
    print(why, flush=True)
    return COULD_NOT


class Found:
    """What a file says of one stage."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.left_out: list[str] = []
        self.compiled = 0


def read(path: Path) -> dict[str, Found]:
    """The lines of a file by stage; a last line that was cut off is passed over."""
    found: dict[str, Found] = {}
    for line in lines(path):
        stage = found.setdefault(line["stage"], Found())
        if "row" in line:
            stage.rows.append(line["row"])
        elif "failed" in line:
            stage.failed.append(f"{line['failed']}: {line['error']}")
        elif "left_out" in line:
            stage.left_out.append(f"{line['left_out']}: {line['why']}")
        stage.compiled += line.get("compiled", 0)
    return found


def lines(path: Path) -> Iterator[Row]:
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(text)


def _line(row: Row) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if not isinstance(value, dict | list)
    )
