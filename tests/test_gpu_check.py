"""`make gpu-check` goes as far as it can where there is no GPU, and says what it could not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from native_build import ROOT

sys.path.insert(0, str(ROOT))
from bench import gpu_check


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu_check.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(bool(gpu_check.gpu_name()), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    given = ["--only", "config", "memcheck", "table1", "--commit", "abc", "--minutes", "600"]
    done = check(*given, "--output", str(tmp_path))
    assert done.returncode == gpu_check.COULD_NOT, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gpu"] is None
    verdicts = {step["name"]: step["verdict"] for step in summary["steps"]}
    assert verdicts == {"config": "passed", "memcheck": "could not run", "table1": "could not run"}
    text = (tmp_path / "summary.md").read_text()
    assert "No GPU" in text
    assert text in done.stdout
    report = json.loads((tmp_path / "table1.json").read_text())
    assert report["commit"] == "abc"
    (left_out,) = report["left out"]
    assert left_out.startswith("torch: ")  # no GPU, or not installed
    assert "scanlib" in (tmp_path / "log.txt").read_text()


def test_a_step_that_outlasts_its_limit_is_stopped(tmp_path: Path) -> None:
    code = "import time; print('began', flush=True); time.sleep(100_000)"
    for limit in (1, 10, 100):  # the least in which Python starts on this machine
        step = gpu_check.Step("sleep", [sys.executable, "-c", code], limit)
        with (tmp_path / "log").open("w") as log:
            gpu_check.run(step, dict(os.environ), log)
        assert step.verdict == "FAILED"
        if step.said.endswith("began"):
            break
    assert step.said == f"stopped after {limit} s; began"


@pytest.mark.parametrize(
    ("status", "last", "verdict"),
    [
        (0, "5 passed in 1s", "passed"),
        (0, "7 skipped in 1s", "could not run"),
        (1, "1 failed, 2 passed in 1s", "FAILED"),
        (5, "no tests ran in 1s", "could not run"),
        (3, "", "FAILED"),
    ],
)
def test_tests_that_are_all_skipped_are_no_pass(
    tmp_path: Path, status: int, last: str, verdict: str
) -> None:
    code = f"print({last!r}); raise SystemExit({status})"
    step = gpu_check.Step("tests", [sys.executable, "-c", code], 30)
    with (tmp_path / "log").open("w") as log:
        gpu_check.run(step, dict(os.environ), log)
    assert step.verdict == verdict


def test_not_installed_it_puts_the_package_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "WORK", tmp_path)
    monkeypatch.setattr(gpu_check, "installed", lambda environment: False)
    monkeypatch.setattr(gpu_check, "build", lambda log: Path("/somewhere/libscanlib.so"))
    monkeypatch.delenv("SCANLIB_LIBRARY", raising=False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--output", str(tmp_path / "out")])
    environment = gpu_check.prepare(gpu_check.parse(), None)
    assert environment["SCANLIB_LIBRARY"] == "/somewhere/libscanlib.so"
    package = tmp_path / "site" / "scanlib"
    assert (package / "backends" / "cupy.py").exists()
    assert (package / "cuda" / "scanlib.cu").exists()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import scanlib.backends as b; print(b.__file__)"
    done = subprocess.run(  # without the import hooks of an editable install
        [sys.executable, "-S", "-P", "-c", code, str(tmp_path / "site")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_site_packages())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(package / "backends" / "__init__.py"), done.stderr


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def test_the_summary_has_a_table_of_each_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "price": [
            {"work": "copy", "gigabytes_per_second": 4300.0},
            {
                "library": "torch",
                "dtype": "float32",
                "work": "forward",
                "case": "(8,) axis 0",
                "ratio": 1.05,
                "gigabytes_per_second": 4100.0,
            },
        ],
        "table1": [{"steps": 16, "features": 4, "speedup": 1.5}],
        "peers": [
            {"candidate": "CUB DeviceScan", "elements": 8, "gigabytes_per_second": 2600.0},
            {"candidate": "slow", "case": "(8,) axis 0", "skipped": "takes | other shapes"},
        ],
    }
    for name, content in rows.items():
        report = {"rows": content, "failed": [f"{name} went wrong"], "left out": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--output", str(tmp_path)])
    steps = [gpu_check.Step(name, [], 1, status=0) for name in rows]
    text = gpu_check.summarize(steps, gpu_check.parse())
    assert "copy moves 4300 GB/s" in text
    assert "| float32 forward (8,) axis 0 | 1.05, 4100 |" in text
    assert "| 16 | 1.50 |" in text
    assert "| 8 elements | CUB DeviceScan | 2600 |  |" in text
    assert "takes / other shapes" in text
    assert "- price, failed: price went wrong" in text
