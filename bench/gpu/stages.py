"""Stages of a GPU check: each a process of its own, with a limit, and killed where it shows no sign of life.

Signs of life are lines of output and the beats of `bench.core.progress`. A kernel that never ends holds its process in
a call that no signal handler gets out of, so the whole group of processes is killed, and the last beat says where it
was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from bench.core import progress

COULD_NOT, OUT_OF_TIME = 3, 4
NO_TESTS = 5  # of pytest
SANITIZER = 9  # what compute-sanitizer is told to exit with where it found something
QUIET = 20.0  # seconds without a sign of life
STARTING = 60.0  # the same before the first one
LAST_LINES = 400
LIMIT = "{seconds}"
MARGIN = 8  # of these seconds, for starting and for writing the last results
HANGS = "HANGS"
#: A failure that was told before a stage was stopped: by `bench.gpu.report` and `bench.core.heartbeat`.
SO_FAR = re.compile(r"FAILED ")
#: What compute-sanitizer says where it cannot work at all.
REFUSED = r"^=+ .*(?:not supported|Internal Sanitizer Error|No attachable process).*$"


@dataclasses.dataclass
class Stage:
    """One process: `seconds` at most, and `quiet` without a sign of life. Without a command, `reason` is why.

    `LIMIT` in the command stands for the seconds after which the process is to stop by itself.
    """

    name: str
    command: list[str]
    seconds: float
    quiet: float = QUIET
    reason: str = ""
    #: What a test run or a watched one says is read by other rules: "pytest", "sanitizer".
    kind: str = ""
    status: int | None = None
    took: float = 0.0
    said: str = ""

    @property
    def verdict(self) -> str:
        if self.status is None:
            return "not run"
        known = {0: "passed", COULD_NOT: "could not run", OUT_OF_TIME: "out of time"}
        return known.get(self.status, "FAILED")


def run(
    stage: Stage, environment: dict[str, str], folder: Path, log: IO[str], patience: float = 1.0
) -> None:
    """Run a stage to its end or its limits; its output goes to the log as it comes, the last telling line into `said`.

    `patience` is how many times the limits this machine is given.
    """
    if not stage.command:
        stage.status, stage.said = COULD_NOT, stage.reason
        return
    own = f"{max(1.0, stage.seconds - MARGIN):.0f}"
    command = [part.replace(LIMIT, own) for part in stage.command]
    log.write(f"\n===== {stage.name}: {' '.join(command)}\n")
    log.flush()
    with tempfile.TemporaryDirectory() as beats:
        heartbeat = Path(beats) / "heartbeat"
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "GPU_CHECK_HEARTBEAT": str(heartbeat)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        output = _Output(process, log)
        began = time.monotonic()
        stopped = _watch(stage, process, output, heartbeat, patience)
        stage.took = time.monotonic() - began
    output.thread.join(timeout=5)  # a process that left the group may hold the pipe
    lines = [line.strip() for line in output.lines if line.strip()]
    stage.status = process.returncode
    stage.said = stopped + (lines[-1][:160] if lines else "")
    if stopped:
        wrong = stopped.startswith(HANGS) or output.failed
        stage.status = 1 if wrong else OUT_OF_TIME
    else:
        _judge(stage, lines)


class _Output:
    """What a process says, written to the log at once; the last lines are kept."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self.count, self.lines, self.failed = 0, [""], False
        self.thread = threading.Thread(target=self._read, args=(process.stdout, log), daemon=True)
        self.thread.start()

    def _read(self, stream: IO[str], log: IO[str]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 65536).decode(errors="replace"):
                self.count += 1
                with contextlib.suppress(ValueError):  # the log of a run that has ended
                    log.write(chunk)
                    log.flush()
                lines = ("\n".join(self.lines) + chunk).split("\n")
                self.failed = self.failed or any(map(SO_FAR.match, lines))
                self.lines = lines[-LAST_LINES:]


def _watch(
    stage: Stage,
    process: subprocess.Popen[str],
    output: _Output,
    heartbeat: Path,
    patience: float,
) -> str:
    """Wait for the process; why it was killed, or an empty string."""
    end = time.monotonic() + stage.seconds
    seen, since = (0, 0), time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return ""
        beat, now = progress.read(heartbeat), time.monotonic()
        if (beat.count, output.count) != seen:
            seen, since = (beat.count, output.count), now
        quiet = patience * max(stage.quiet if any(seen) else STARTING, beat.patience)
        if now < end and now - since < quiet:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the driver may hold it for good
            process.wait(10)
        at = f" at {beat.what}" if beat.what else ""
        if now >= end:
            return f"stopped after {stage.seconds:.0f} s{at}; "
        return f"{HANGS}: no progress for {now - since:.0f} s{at}; "


def _judge(stage: Stage, lines: list[str]) -> None:
    """Tests that were all skipped are no pass, and a sanitizer that refuses the device has found nothing."""
    if stage.kind == "pytest":
        if stage.status == NO_TESTS or (stage.status == 0 and "passed" not in stage.said):
            stage.status = COULD_NOT
            reasons = [line.partition(": ")[2] for line in lines if line.startswith("SKIPPED [")]
            stage.said += "".join(f"; {reason}" for reason in dict.fromkeys(reasons))[:200]
        elif stage.status:
            stage.status = 1
    elif stage.kind == "sanitizer":
        text = "\n".join(lines)
        refused = re.search(REFUSED, text, re.MULTILINE)
        counted = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
        if refused:
            stage.status, stage.said = COULD_NOT, refused[0].strip("= ")[:160]
        elif counted:
            stage.said = f"{counted[-1].lower()}; {stage.said}"
            stage.status = 1 if stage.status else 0
