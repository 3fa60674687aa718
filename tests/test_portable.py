"""The suite's own promise: what it says is the same on every machine, however slow, busy or narrow its vectors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILES = sorted(path for path in HERE.glob("*.py") if path.name.startswith(("test_", "native_")))
CLOCK = re.compile(
    r"\b(perf_counter|process_time|monotonic|thread_time)\b|\btime\.time\(|\btimeit\b"
)
PATIENCE = 600  # seconds in which nothing but a hang ends


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield path.name, ast.parse(path.read_text())


def test_no_test_reads_a_clock() -> None:
    """Neither itself nor in the programs that it runs, which are strings in it."""
    reading = [
        p.name for p in FILES if p.name != Path(__file__).name and CLOCK.search(p.read_text())
    ]
    assert reading == []


def test_only_a_hang_runs_out_of_time() -> None:
    """One limit for all, in pyproject.toml; where a test has to have another, it is far from what any machine needs."""
    short = [
        f"{name}:{node.value.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "timeout"
        if not (isinstance(node.value, ast.Constant) and (node.value.value or 0) >= PATIENCE)
    ]
    assert short == []


def test_no_example_of_hypothesis_has_a_deadline() -> None:
    settings = pytest.importorskip("hypothesis").settings
    assert settings().deadline is None


def test_test_modules_do_not_import_each_other() -> None:
    """What several need stands in a module without tests."""
    names = [
        f"{name}: {module}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if module and module.startswith("test_")
    ]
    assert names == []
