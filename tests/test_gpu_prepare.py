"""What `make gpu-prepare` has compiled, `make gpu-check` does not compile: both run here, without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from native_build import ROOT

from scanlib import compiler

sys.path.insert(0, str(ROOT))
from bench.gpu import check as gpu_check
from bench.gpu import report as gpu_report

pytestmark = [
    pytest.mark.skipif(bool(compiler.unavailable()), reason=compiler.unavailable()),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


def run(tmp_path: Path, script: str, *arguments: str | Path) -> str:
    """Each script in a working folder of its own: they share what is prepared, as two machines do."""
    environment = {**os.environ, "GPU_CHECK_WORK": str(tmp_path / script)}
    for name in ("SCANLIB_CACHE_DIR", "SCANLIB_CUDA_COMPILE"):
        environment.pop(name, None)
    command = [sys.executable, ROOT / "bench" / "gpu" / script, *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stdout
    return done.stdout


def rehearsed(tmp_path: Path, prepared: Path, *only: str) -> dict[str, Any]:
    """The summary of a rehearsal."""
    output = tmp_path / "results"
    given = ["--rehearse", "--minutes", "600", "--prepared", prepared, "--output", output]
    run(tmp_path, "check.py", *given, *(["--only", *only] if only else []))
    assert len(list(output.iterdir())) <= 8
    summary = json.loads((output / "summary.json").read_text())
    return summary | {"found": gpu_report.read(output / gpu_report.FILE)}


def test_nothing_is_compiled_twice_wherever_the_folder_lies(tmp_path: Path) -> None:
    prepared, moved = tmp_path / "prepared", tmp_path / "elsewhere" / "prepared"
    said = run(tmp_path, "prepare.py", "--no-library", "--only", "profile", "--prepared", prepared)
    programs = json.loads((prepared / "programs.json").read_text())
    assert programs["of"] == {"profile": programs["programs"]}
    # Of two dtypes, two directions and three shapes.
    assert programs["programs"] == programs["compiled"] == 12
    assert f"12 programs for sm_{programs['architecture']}" in said
    moved.parent.mkdir()
    prepared.rename(moved)
    summary = rehearsed(tmp_path, moved, "versions", "profile")
    assert {step["name"]: step["verdict"] for step in summary["steps"]} == {
        "versions": "passed",
        "profile": "passed",
    }
    assert summary["found"]["profile"].left_out == ["counters: rehearsal"]
    assert summary["compiled"] == 0
    cache = tmp_path / "check.py" / "cache"
    kept = [path for path in cache.rglob("*") if path.stat().st_size > 10_000]
    assert len(kept) == 12
    kept[0].unlink()
    assert rehearsed(tmp_path, moved, "profile")["compiled"] == 1


@pytest.mark.slow
def test_every_stage_of_a_rehearsal_runs_or_says_why_not(tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    run(tmp_path, "prepare.py", "--no-library", "--no-tests", "--prepared", prepared)
    summary = rehearsed(tmp_path, prepared)
    planned = [stage.name for stage in gpu_check.plan(gpu_check.parse(["--rehearse"]))]
    assert [step["name"] for step in summary["steps"]] == planned
    for step in summary["steps"]:
        assert step["verdict"] in ("passed", "could not run"), step
        assert step["said"], step
        own = step["name"] not in ("memcheck", "racecheck") and "tests" not in step["name"]
        assert step["verdict"] == ("passed" if own else "could not run"), step
    assert summary["compiled"] == 0
    found = summary["found"]
    assert not [text for stage in found.values() for text in stage.failed]
    assert all(row["checked"] is False for row in summary["price"])
    works = {(row["dtype"], row["work"], row["library"]) for row in summary["price"]}
    assert {("bfloat16", "forward + backward", name) for name in ("torch", "cupy", "jax")} <= works
    assert {row["knob"] for row in summary["sweep"]} >= {"bundle", "row_threads", "run_bytes"}


@pytest.mark.slow
def test_the_programs_of_tests_are_found_on_the_cpu(tmp_path: Path) -> None:
    """One test of each kind, as `make gpu-prepare` has all of them run."""
    record = tmp_path / "programs.txt"
    record.write_text("")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    # fmt: off
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "bench.gpu.recorded_tests",
               str(ROOT / "tests" / "test_gpu.py"), "-k", "every_kernel and float32 and cupy", "-m", "gpu"]
    # fmt: on
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "GPU_CHECK_RECORD": str(record)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert " passed" in done.stdout, done.stdout + done.stderr
    found = record.read_text().splitlines()
    assert len(set(found)) == len(found) > 8
    assert any("KERNEL=1" in text for text in found)
    assert any("BACKWARD=1" in text for text in found)
