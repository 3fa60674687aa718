"""What a result was measured on: the machine, the versions and the commit.

scanlib is imported where it is asked: `bench/gpu/check.py` needs the rest before there is one to import.
"""

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

ROOT = Path(__file__).resolve().parents[2]
# fmt: off
DISTRIBUTIONS = ("numpy", "torch", "triton", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "cupy-cuda12x",
                 "cupy-cuda13x", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "scipy",
                 "numba", "torchlpc", "ml_dtypes", "accelerated-scan", "flash-linear-attention")
#: What nvidia-smi is asked: the card, and the clocks it runs at beside those it could.
GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
              "power.limit", "temperature.gpu")
# fmt: on


def header(settings: dict[str, Any]) -> dict[str, Any]:
    """What a report begins with: when, of which commit, where, with what, and how it was measured."""
    name, dirty = commit()
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": name,
        "dirty": dirty,
        **where(),
        "settings": settings,
    }


def where() -> dict[str, Any]:
    """The machine, its GPU, and what is installed."""
    return {
        "machine": machine(),
        "gpu": gpu(),
        "libscanlib": libscanlib(),
        "versions": versions(),
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


def gpu() -> dict[str, Any]:
    """The first GPU, its driver, memory and clocks, as nvidia-smi tells them; without one a name of None and why."""
    try:
        (first, *_) = nvidia_smi(*GPU_FIELDS)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"name": None, "reason": str(error)}
    return dict(zip(GPU_FIELDS, first, strict=False))


def nvidia_smi(*fields: str) -> list[list[str]]:
    """These fields of every GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]


def versions() -> dict[str, Any]:
    """Python, scanlib, libscanlib and whatever else is installed of what is measured."""
    import scanlib

    found = {"python": platform.python_version(), "scanlib": scanlib.__version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def libscanlib() -> dict[str, Any]:
    """Instruction set and threads in use."""
    import scanlib

    section = scanlib.show_config("dicts")["libscanlib"]
    return {key: section.get(key) for key in ("version", "instruction set", "threads")}


def commit() -> tuple[str, bool | None]:
    """`(commit, dirty)` of the checkout, or what GPU_CHECK_COMMIT says; "unknown" where neither tells."""
    if given := os.environ.get("GPU_CHECK_COMMIT"):
        return given, None
    name = _git("rev-parse", "--short=8", "HEAD")
    return name or "unknown", bool(
        _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs/images")
    )


def device_name() -> str:
    """The machine as the name of a results folder."""
    found = machine()
    return folder_name(f"{found['processor']} {found['cores']} cores")


def folder_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


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
