"""libscanlib under sanitizers, driven through its C interface by the programs of tests/native, without Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from native_build import OPTIONS, build, run, sanitizer_prefix

pytestmark = pytest.mark.slow


def test_address_and_undefined_behaviour(tmp_path: Path) -> None:
    """No access outside an operand, no leak, no undefined arithmetic; right results on the way, and under fuzzing."""
    sanitize = "address,undefined"
    prefix = sanitizer_prefix(sanitize, tmp_path)
    programs = build("address", sanitize=sanitize) / "tests" / "native"
    for mode in (["refusals"], ["cases"], ["large", "23"], ["concurrent"], ["gated", "200"]):
        assert f"{mode[0]}: 0 failures" in run(*prefix, programs / "driver", *mode, **OPTIONS)
    run(*prefix, programs / "fuzz_abi", "1000", "1", **OPTIONS)


def test_data_races(tmp_path: Path) -> None:
    """No two threads touch the same memory unordered: inside one call, and with many callers at once."""
    prefix = sanitizer_prefix("thread", tmp_path)
    programs = build("thread", sanitize="thread") / "tests" / "native"
    for mode in (["concurrent"], ["large", "29"], ["gated", "80"]):
        assert f"{mode[0]}: 0 failures" in run(*prefix, programs / "driver", *mode, **OPTIONS)
    run(*prefix, programs / "fuzz_abi", "200", "2", **OPTIONS)


def test_without_sanitizers() -> None:
    """The library as users get it: larger problems, calls in children of a busy process, another fuzzing seed."""
    programs = build("plain") / "tests" / "native"
    for mode in (["cases"], ["large", "11"], ["fork"], ["gated", "300"], ["openmp"]):
        assert f"{mode[0]}: 0 failures" in run(programs / "driver", *mode)
    run(programs / "fuzz_abi", "4000", "3")


@pytest.mark.skipif(
    shutil.which("clang++") is None, reason="clang++, which has libFuzzer, is not installed"
)
def test_libfuzzer(tmp_path: Path) -> None:
    """Coverage-guided fuzzing over the C interface."""
    sanitize = "address,undefined,fuzzer-no-link"
    prefix = sanitizer_prefix(sanitize, tmp_path, "clang++")
    programs = build("fuzzer", sanitize=sanitize, compiler="clang++") / "tests" / "native"
    run(
        *prefix,
        programs / "fuzz_abi",
        "-runs=2000",
        "-max_len=512",
        "-seed=1",
        "-verbosity=0",
        **OPTIONS,
    )
