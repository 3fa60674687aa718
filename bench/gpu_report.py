"""What each step of the GPU benchmarks writes: one JSON file with the device, the versions, the commit and its rows.

A step stops by itself when its time is up and names what it left out. The file is written again after every row, so
that what was measured stays where a step is stopped from outside.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import scanlib
from bench import machine

Row = dict[str, Any]
DISTRIBUTIONS = (
    "numpy",
    "torch",
    "triton",
    "jax",
    "jaxlib",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "cuda-core",
    "cuda-bindings",
    "accelerated-scan",
    "flash-linear-attention",
)


def arguments(name: str, doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=doc)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=120, help="when to stop (default 120)")
    parser.add_argument("--log2", type=int, default=26, help="elements as a power of two")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="separated by commas")
    parser.add_argument("--libraries", default="torch,cupy,jax", help="separated by commas")
    return parser.parse_args()


def gpu() -> Row:
    """The card, its driver, memory and clocks, as nvidia-smi tells them."""
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"name": None, "reason": str(error)}
    values = [part.strip() for part in done.stdout.splitlines()[0].split(",")]
    return dict(zip(fields.split(","), values, strict=False))


def commit() -> tuple[str, bool | None]:
    """`(commit, dirty)`: SCANLIB's checkout, or what GPU_CHECK_COMMIT says where there is no git."""
    if given := os.environ.get("GPU_CHECK_COMMIT"):
        return given, None
    return machine.commit()


class Report:
    """The file of one step, and its clock."""

    def __init__(self, step: str, options: argparse.Namespace) -> None:
        self.path: Path = options.output
        self.end = time.monotonic() + options.seconds
        name, dirty = commit()
        self.content: dict[str, Any] = {
            "schema": 1,
            "step": step,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": name,
            "dirty": dirty,
            "gpu": gpu(),
            "machine": machine.machine(),
            "versions": {"scanlib": scanlib.__version__, **_versions()},
            "settings": {key: str(value) for key, value in vars(options).items()},
            "rows": [],
            "failed": [],
            "left out": [],
        }
        self.write()

    def run(self, jobs: Iterable[tuple[str, Callable[[], Row | list[Row]]]]) -> int:
        """Measure every job while there is time; 0, or 1 where one gave wrong values or an error."""
        for title, job in jobs:
            if time.monotonic() > self.end:
                self.content["left out"].append(title)
                continue
            began = time.monotonic()
            try:
                rows = job()
            except Exception as error:
                self.content["failed"].append(f"{title}: {type(error).__name__}: {error}")
                print(f"FAILED {self.content['failed'][-1]}", flush=True)
                continue
            for row in rows if isinstance(rows, list) else [rows]:
                self.content["rows"].append(row)
                print(_line(row), flush=True)
            print(f"    {title}: {time.monotonic() - began:.1f} s", flush=True)
            self.write()
        self.write()
        if self.content["left out"]:
            print(f"left out for want of time: {len(self.content['left out'])}", flush=True)
        return 1 if self.content["failed"] else 0

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def _line(row: Row) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if not isinstance(value, dict | list)
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
