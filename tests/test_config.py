"""`show_config`, `python -m scanlib` and the table of environment variables."""

from __future__ import annotations

import ctypes.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scanlib
from scanlib import config, kinds, native

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str, **environment: str) -> str:
    """Standard output of a fresh interpreter, which must exit with 0 and complain about nothing."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_dicts_tell_what_is_here() -> None:
    found = scanlib.show_config("dicts")
    assert list(found) == ["versions", "libscanlib", "libraries", "cuda", "environment"]
    assert found["versions"]["scanlib"] == scanlib.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    library = found["libscanlib"]
    assert library["path"] == str(native.library_path())
    assert library["abi"] == native.ABI_VERSION
    assert library["instruction set"] in ("baseline", "avx2", "avx512", "neon")
    assert library["threads"] >= 1
    assert found["libraries"]["numpy"] == {"found": True, "loaded": True, "version": np.__version__}
    assert not any("error" in section for section in found.values())


@pytest.mark.skipif(
    "SCANLIB_LIBRARY" in os.environ, reason="SCANLIB_LIBRARY names another libscanlib"
)
def test_library_and_package_have_one_version() -> None:
    assert scanlib.show_config("dicts")["libscanlib"]["version"] == scanlib.__version__


def test_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert scanlib.show_config() is None
    printed = capsys.readouterr().out
    for section, values in scanlib.show_config("dicts").items():
        assert f"{section}:\n" in printed
        for key in values:
            assert re.search(rf"^  {re.escape(key)} ", printed, re.MULTILINE)
    assert f"numpy                {np.__version__} (loaded)" in printed
    assert printed.startswith(f"versions:\n  scanlib              {scanlib.__version__}\n")


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode is 'json'.*\"dicts\""):
        scanlib.show_config("json")  # type: ignore[call-overload]


def test_every_library_is_shown() -> None:
    modules = {module.partition(".")[0] for module, _ in kinds.LIBRARIES.values()}
    assert modules <= config.DISTRIBUTIONS.keys()


def test_module_prints_and_imports_nothing() -> None:
    assert f"scanlib              {scanlib.__version__}" in python("-m", "scanlib")
    code = """
import sys, scanlib
found = scanlib.show_config("dicts")["libraries"]
loaded = [name for name in ("torch", "jax", "jaxlib", "cupy") if name in sys.modules]
assert not loaded, loaded
print(*[name for name in found if found[name]["found"]])
"""
    here = [name for name in config.DISTRIBUTIONS if config._is_importable(name)]
    assert python("-c", code).split() == here


@pytest.mark.parametrize(
    ("library", "says"),
    [
        ("/nowhere/libscanlib.so", "/nowhere/libscanlib.so"),
        (str(Path(__file__)), "does not load"),
        ("", "threads"),  # empty is as good as not set
    ],
    ids=["missing", "no library", "empty"],
)
def test_broken_library_is_reported_not_raised(library: str, says: str) -> None:
    printed = python("-m", "scanlib", SCANLIB_LIBRARY=library)
    section = printed[printed.index("libscanlib:") : printed.index("libraries:")]
    assert says in section
    assert ("error" in section) == bool(library)


def test_library_of_something_else_is_reported_not_raised() -> None:
    printed = python("-m", "scanlib", SCANLIB_LIBRARY=str(ctypes.util.find_library("m")))
    assert re.search(r"^  error +\w+: .*libm", printed, re.MULTILINE)


def test_no_value_of_the_environment_breaks_it() -> None:
    environment = {name: b"\xff\xfe" for name in config.ENVIRONMENT if name != "SCANLIB_ISA"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scanlib"],
        env={os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
        | {os.fsencode(name): value for name, value in environment.items()}
        | {b"PYTHONIOENCODING": b"ascii:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rb"SCANLIB_NUM_THREADS  \udcff\udcfe" in done.stdout


def test_an_instruction_set_that_is_not_here_is_not_replaced_in_silence() -> None:
    call = "import numpy, scanlib; print(scanlib.linear_recurrence(0.5, numpy.ones(3)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", call],
        env=os.environ | {"SCANLIB_ISA": "avx3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[1.   1.5  1.75]\n"
    assert re.search(r"RuntimeWarning: SCANLIB_ISA is 'avx3'.*: \w+ is used", done.stderr)


def test_a_section_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(config, "_cuda", broken)
    assert scanlib.show_config("dicts")["cuda"] == {"error": "RuntimeError: no such luck"}
    scanlib.show_config()


def test_module_set_to_none_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert scanlib.show_config("dicts")["libraries"]["cupy"]["found"] is False


def test_every_variable_is_in_the_table() -> None:
    """The sources read no environment variable but those of the table, which are at most six, and README has them."""
    sources = [
        path
        for folder in ("scanlib", "backends", "native")
        for path in (ROOT / folder).rglob("*.[chp]*")
    ]
    text = "\n".join(path.read_text() for path in sources if path.suffix in (".py", ".cpp", ".h"))
    read = set(re.findall(r'"((?:SCANLIB|OMP)_[A-Z_]+)"', text)) - {"SCANLIB_VERSION"}
    assert read == set(config.ENVIRONMENT)
    assert len(config.ENVIRONMENT) <= 6
    readme = (ROOT / "README.md").read_text()
    for name, meaning in config.ENVIRONMENT.items():
        assert f"| `{name}` | {meaning} |" in readme
