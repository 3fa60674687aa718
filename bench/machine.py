"""What a result was measured on: the machine, the versions and the commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import scanlib

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("numpy", "torch", "jax", "jaxlib", "scipy", "numba", "torchlpc", "ml_dtypes")


def header(settings: dict[str, Any]) -> dict[str, Any]:
    """What a report begins with: when, of which commit, where, with what, and how it was measured."""
    name, dirty = commit()
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": name,
        "dirty": dirty,
        "machine": machine(),
        "libscanlib": libscanlib(),
        "versions": versions(),
        "settings": settings,
    }


def write(report: dict[str, Any], path: Path) -> Path:
    """A report as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, memory, kernel and the setting of transparent huge pages."""
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    )
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled").strip() or None,
    }


def versions() -> dict[str, Any]:
    """Python, scanlib, libscanlib and whatever else is installed of what is measured."""
    found = {"python": platform.python_version(), "scanlib": scanlib.__version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def libscanlib() -> dict[str, Any]:
    """Instruction set and threads in use."""
    section = scanlib.show_config("dicts")["libscanlib"]
    return {key: section.get(key) for key in ("version", "instruction set", "threads")}


def commit() -> tuple[str, bool]:
    """`(commit, dirty)` of the checkout; "unknown" outside one."""
    name = _git("rev-parse", "--short=8", "HEAD")
    return name or "unknown", bool(
        _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs/images")
    )


def device_name() -> str:
    """The machine as the name of a results folder."""
    found = machine()
    text = f"{found['processor']} {found['cores']} cores".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _processor() -> str:
    match = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    return match[1].strip() if match else platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
