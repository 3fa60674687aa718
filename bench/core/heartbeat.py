"""A plugin for pytest (`-p bench.core.heartbeat`): which test runs, for whoever watches, and each failure at once."""

from __future__ import annotations

import os
from typing import Any

from bench.core import progress

WORKER = "PYTEST_XDIST_WORKER" in os.environ


def pytest_sessionstart() -> None:
    if not WORKER:
        progress.enter("collecting tests", 120)


def pytest_runtest_logstart(nodeid: str) -> None:
    if not WORKER:
        progress.enter(nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    if not WORKER:
        progress.enter(f"after {nodeid}")


def pytest_runtest_logreport(report: Any) -> None:
    if not WORKER and report.failed:
        reason = str(report.longrepr).strip().splitlines() or [""]
        print(f"\nFAILED {report.nodeid}: {reason[-1][:200]}", flush=True)
