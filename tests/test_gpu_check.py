"""`make gpu-check` loses nothing, names what hangs, and goes as far as it can where there is no GPU."""

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
from bench.core import machine, progress
from bench.gpu import check as gpu_check
from bench.gpu import report as gpu_report
from bench.gpu import stages as gpu_stages
from bench.gpu import summary as gpu_summary
from bench.gpu.stages import Stage


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu" / "check.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(bool(machine.gpu()["name"]), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    given = ["--only", "versions", "memcheck", "table1", "--commit", "abc", "--minutes", "600"]
    done = check(*given, "--output", str(tmp_path))
    assert done.returncode == gpu_stages.COULD_NOT, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gpu"] is None
    verdicts = {step["name"]: step["verdict"] for step in summary["steps"]}
    assert verdicts == {
        "versions": "passed",
        "memcheck": "could not run",
        "table1": "could not run",
    }
    text = (tmp_path / "summary.md").read_text()
    assert "No GPU" in text
    assert text in done.stdout
    header, *rest = gpu_report.lines(tmp_path / gpu_report.FILE)
    assert header["header"]["commit"] == "abc"
    assert {"gpu", "machine", "versions", "libscanlib"} <= header["header"].keys()
    left_out = [line["why"] for line in rest if "left_out" in line]
    assert len(left_out) == 1
    assert left_out[0].startswith("torch: ")  # no GPU, or not installed
    assert "scanlib at abc" in (tmp_path / "log.txt").read_text()
    assert len(list(tmp_path.iterdir())) <= 8


# ---- stages


def run(tmp_path: Path, stage: Stage, patience: float = 1.0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        gpu_stages.run(stage, environment, tmp_path, log, patience)
    return (tmp_path / "log").read_text()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_stage_that_outlasts_its_limit_is_stopped(tmp_path: Path) -> None:
    code = "import itertools\nprint({!r}, flush=True)\nfor i in itertools.count(): print(i, flush=True)"
    stage = Stage("count", python(code.format("passed so far")), 1)
    run(tmp_path, stage)
    assert stage.verdict == "out of time"
    assert stage.said.startswith("stopped after 1 s")


HANG = """
import os, signal, sys, time
sys.path.append({root!r})
for number in list(signal.Signals):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
from bench.core import progress
progress.enter("float32 (8, 4096) axis 1")
print("began", flush=True)
if os.fork() == 0:
    time.sleep(100_000)
progress.beat("ours, first call"{more})
time.sleep(100_000)
"""


@pytest.mark.parametrize("beats", [True, False])
def test_a_stage_without_a_sign_of_life_is_killed_and_named(tmp_path: Path, beats: bool) -> None:
    """Deaf to every signal that it can be deaf to, with a child that holds its output."""
    code = HANG.format(root=str(ROOT), more="")
    code = code if beats else "import time; time.sleep(100_000)"
    for quiet in (1, 10, 100):  # the least in which this machine gets from one beat to the next
        stage = Stage("hang", python(code), 100_000, quiet=quiet)
        run(tmp_path, stage, 1.0 if beats else 0.05)
        assert stage.verdict == "FAILED"
        assert stage.said.startswith("HANGS: no progress for ")
        if not beats or "first call" in stage.said:
            break
    if beats:
        assert " at float32 (8, 4096) axis 1: ours, first call; " in stage.said
        assert stage.said.endswith("began")


def test_a_beat_may_ask_for_patience(tmp_path: Path) -> None:
    code = HANG.format(root=str(ROOT), more=", 3000")
    for limit in (5, 50, 500):  # the least in which Python starts on this machine
        stage = Stage("compiling", python(code), limit, quiet=limit / 5)
        run(tmp_path, stage)
        if "first call" in stage.said:
            break
    assert stage.said.startswith(f"stopped after {limit} s at float32"), stage.said


def test_output_is_in_the_log_at_once(tmp_path: Path) -> None:
    """Whatever is killed: it has been written when it was said."""
    # Of what is in its command too, nothing would follow.
    code = f"print(6**30, flush=True)\nwhile str(6**30) not in open({str(tmp_path / 'log')!r}).read(): pass"
    stage = Stage("log", python(code), 600, quiet=600)
    run(tmp_path, stage)
    assert (stage.verdict, stage.said) == ("passed", str(6**30))


def test_a_failure_before_the_limit_is_one(tmp_path: Path) -> None:
    code = "print('FAILED it\\n' + 1000 * 'more\\n', flush=True)\nwhile True: print('more')"
    for limit in (1, 10, 100):  # the least in which Python starts on this machine
        stage = Stage("count", python(code), limit)
        if "FAILED" in run(tmp_path, stage):
            break
    assert stage.verdict == "FAILED"
    assert stage.said.startswith(f"stopped after {limit} s")


@pytest.mark.parametrize(
    ("kind", "status", "said", "verdict"),
    [
        ("pytest", 0, "5 passed in 1s", "passed"),
        ("pytest", 0, "7 skipped in 1s", "could not run"),
        ("pytest", 1, "1 failed, 2 passed in 1s", "FAILED"),
        ("pytest", 5, "no tests ran in 1s", "could not run"),
        ("pytest", 3, "", "FAILED"),
        ("sanitizer", 0, "========= ERROR SUMMARY: 0 errors", "passed"),
        ("sanitizer", 9, "========= ERROR SUMMARY: 2 errors", "FAILED"),
        ("sanitizer", 1, "========= Error: Device not supported. Please refer", "could not run"),
        ("", 3, "no GPU", "could not run"),
        ("", 1, "", "FAILED"),
    ],
)
def test_what_a_stage_says_is_read(
    tmp_path: Path, kind: str, status: int, said: str, verdict: str
) -> None:
    code = f"print({said!r}); raise SystemExit({status})"
    stage = Stage("it", python(code), 600, quiet=600, kind=kind)
    run(tmp_path, stage)
    assert stage.verdict == verdict


def test_tests_that_are_all_skipped_say_why(tmp_path: Path) -> None:
    lines = [
        *(f"SKIPPED [1] tests/test_it.py:{n}: no GPU for torch" for n in range(2)),
        "2 skipped",
    ]
    stage = Stage("tests", python(f"print({chr(10).join(lines)!r})"), 600, 600, kind="pytest")
    run(tmp_path, stage)
    assert (stage.verdict, stage.said) == ("could not run", "2 skipped; no GPU for torch")


def test_what_has_no_command_says_why(tmp_path: Path) -> None:
    stage = Stage("memcheck", [], 1, reason="compute-sanitizer was not found")
    run(tmp_path, stage)
    assert (stage.verdict, stage.said) == ("could not run", "compute-sanitizer was not found")


def test_time_is_spent_in_the_order_of_what_matters() -> None:
    stages = gpu_check.plan(gpu_check.parse([]))
    names = [stage.name for stage in stages]
    assert names[:6] == ["versions", "short-list", "stress", "measure", "profile", "tests"]
    assert len(set(names)) == len(names)
    files = {part for stage in stages for part in stage.command if part.startswith("tests/")}
    assert files == {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}


# ---- results


def test_a_killed_process_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / gpu_report.FILE
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.append({str(ROOT)!r})
from bench.gpu import report as gpu_report
report = gpu_report.Report("price", Path({str(path)!r}))
def last():
    os.kill(os.getpid(), signal.SIGKILL)
report.run([("one", lambda: {{"n": 1}}), ("two", lambda: [{{"n": 2}}, {{"n": 3}}]), ("three", last)])
"""
    done = subprocess.run(python(code), env={**os.environ}, check=False)
    assert done.returncode < 0
    with path.open("a") as file:
        file.write('{"stage": "price", "row": {"n": 4')  # cut off in the middle
    assert [row["n"] for row in gpu_report.read(path)["price"].rows] == [1, 2, 3]


def test_what_fails_is_written_down_and_the_rest_is_measured(tmp_path: Path) -> None:
    def wrong() -> Any:
        raise ValueError("it is wrong")

    report = gpu_report.Report("price", tmp_path / "results")
    report.run([("a", wrong), ("b", lambda: {"n": 1})])
    report.run([*[(f"c{i}", wrong) for i in range(5)], ("d", lambda: {"n": 2})])
    found = gpu_report.read(tmp_path / "results")["price"]
    assert [row["n"] for row in found.rows] == [1]
    assert found.failed[0] == "a: ValueError: it is wrong"
    assert found.left_out == ["3 of the comparisons: after 3 failures in a row"]
    assert report.close() == 1


def test_what_there_was_no_time_for_is_counted(tmp_path: Path) -> None:
    report = gpu_report.Report("price", tmp_path / "results", seconds=-1)
    report.run([("a", lambda: {"n": 1}), ("b", lambda: {"n": 2})])
    found = gpu_report.read(tmp_path / "results")["price"]
    assert (found.rows, found.left_out) == ([], ["2 of the comparisons: no time was left"])


def test_a_beat_is_read_as_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heartbeat"
    assert progress.read(path) == (0, 0.0, "")
    monkeypatch.setenv("GPU_CHECK_HEARTBEAT", str(path))
    progress._file.cache_clear()
    try:
        progress.enter("x" * 2 * progress.BYTES, 3)
        first = progress.read(path)
        progress.enter("short")
        progress.beat("call")
        last = progress.read(path)
    finally:
        os.close(progress._file() or 0)
        progress._file.cache_clear()
    assert first.patience == 3
    assert (last.count, last.patience, last.what) == (first.count + 2, 0, "short: call")


# ---- the summary


def test_the_summary_has_a_line_for_each(tmp_path: Path) -> None:
    cell = {"library": "torch", "case": "(8,) axis 0", "gigabytes_per_second": 4100.0}
    rows: dict[str, list[dict[str, Any]]] = {
        "price": [
            {"work": "copy", "gigabytes_per_second": 4300.0},
            {**cell, "dtype": "float32", "work": "forward", "ratio": 1.05},
            {**cell, "dtype": "bfloat16", "work": "forward", "ratio": 1.15},
        ],
        "sweep": [
            {"knob": "bundle", "value": 8, "ratio": 0.5},
            {
                **{"knob": "bundle", "now": 32, "best": 8, "gain": 0.5, "gain forward": 0.5},
                **{"noise": 0.01, "worst": 0.6, "worst at": "here", "change": True},
            },
        ],
        "table1": [{"steps": 16, "features": 4, "speedup": 1.5}],
        "peers": [
            {"candidate": "CUB DeviceScan", "elements": 8, "gigabytes_per_second": 2600.0},
            {"candidate": "slow", "case": "(8,) axis 0", "skipped": "takes | other shapes"},
        ],
    }
    for name, lines in rows.items():
        report = gpu_report.Report(name, tmp_path / gpu_report.FILE)
        for row in lines:
            report.row(row)
        report.failed("a case", f"{name} went wrong")
        report.write(compiled=2)
    stages = [Stage(name, [], 1, status=0) for name in rows]
    text, content = gpu_summary.write(stages, tmp_path, "a card")
    assert "a copy moves 4300 GB/s" in text
    assert "| shape | library | f32 forward | bf16 forward |" in text
    assert "| (8,) axis 0 | torch | 1.05, 4100 | 1.15, 4100 |" in text
    assert (
        "| bundle | 32 | 8 | +50.0% |  | 1.0% | 0.60 at here | **bundle = 8**, 50.0% faster |"
        in text
    )
    assert "| 16 | 1.50 |" in text
    assert "| 8 elements | CUB DeviceScan | 2600 |  |" in text
    assert "takes / other shapes" in text
    assert "- price, failed: a case: price went wrong" in text
    assert "Programs compiled: 2 in price, " in text
    assert content["compiled"] == 8
    assert json.loads((tmp_path / "summary.json").read_text()) == content
    assert gpu_summary.status(stages) == 0
    stages.append(Stage("tests", [], 1, status=gpu_stages.COULD_NOT))
    assert gpu_summary.status(stages) == gpu_stages.COULD_NOT
