"""The suite runs with the packages that a machine has: what a test does without is skipped, and the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
#: All that is imported somewhere in the suite but NumPy, array-api-compat, ml_dtypes, pytest and pytest-timeout.
OPTIONAL = (
    "array_api_strict",
    "torch",
    "jax",
    "jaxlib",
    "flax",
    "flatbuffers",
    "scipy",
    "cupy",
    "cuda.bindings",
    "hypothesis",
    "xdist",
)


@pytest.mark.parametrize(
    "absent",
    [",".join(OPTIONAL), *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIONAL)],
)
def test_every_module_is_collected_without(absent: str) -> None:
    command = [sys.executable, "-P", TESTS / "without.py", absent, "pytest", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", TESTS],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "test_gpu.py::test_every_kernel" in done.stdout
    needed = [name for name in ("torch", "jax", "hypothesis") if name in absent.split(",")]
    assert all(f"could not import '{name}'" in done.stdout for name in needed)
