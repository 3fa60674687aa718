"""The README's support table says what is true: of CUDA, whether results of a GPU are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capabilities import CAPABILITIES, SHOWN, support_table


def test_every_library_has_a_row() -> None:
    """But what is none: the kernels on an emulation."""
    shown = [CAPABILITIES[backend].library for backend in SHOWN]
    assert len(set(shown)) == len(shown)
    assert set(shown) == {c.library for c in CAPABILITIES.values() if c.functions}


def summary(folder: Path, gpu: str | None, verdict: str) -> None:
    folder.mkdir()
    text = json.dumps({"gpu": gpu, "steps": [{"name": "tests", "verdict": verdict}]})
    (folder / "summary.json").write_text(text)


def test_cuda_counts_as_run_once_its_tests_have_passed_on_a_gpu(tmp_path: Path) -> None:
    summary(tmp_path / "card", "Some GPU", "passed")
    table = support_table(tmp_path)
    assert "(emulated)" not in table
    assert "CPU and CUDA |" in table
    assert "have passed on\nSome GPU; what else" in table


@pytest.mark.parametrize(
    ("gpu", "verdict"), [(None, "passed"), ("Some GPU", "FAILED"), ("Some GPU", "could not run")]
)
def test_until_then_it_is_emulated(tmp_path: Path, gpu: str | None, verdict: str) -> None:
    assert support_table(tmp_path) == support_table(tmp_path / "nothing")
    summary(tmp_path / "card", gpu, verdict)
    table = support_table(tmp_path)
    assert "CPU and CUDA (emulated) |" in table
    assert "has not run on a GPU yet" in table
