"""CUDA programs are compiled, kept and found again, without a GPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_gate
import numpy as np
import pytest
from native_calls import dense_problem

import scanlib
from scanlib import compiler, file_cache, gpu, native
from scanlib.compiler import CompileError
from scanlib.errors import MissingLibraryError

pytestmark = pytest.mark.skipif(
    bool(compiler.unavailable()), reason=compiler.unavailable() or "the compiler is here"
)
ELF = b"\x7fELF"


SMALL = "" if compiler.unavailable() else cuda_gate.smallest()


# ---- compiling


def test_what_does_not_compile_is_said() -> None:
    with pytest.raises(CompileError, match=r"does not compile for sm_90(.|\n)*scanlib\.cu"):
        compiler.build("-DSCANLIB_KERNEL=0", 90)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (90, ("cubin", "sm_90")),
        (86, ("cubin", "sm_80")),
        (89, ("cubin", "sm_80")),
        (103, ("cubin", "sm_100")),
        (130, ("ptx", "compute_120")),
        (110, ("ptx", "compute_103")),
    ],
)
def test_gpus_newer_than_the_compiler(
    monkeypatch: pytest.MonkeyPatch, architecture: int, expected: tuple[str, str]
) -> None:
    """They run machine code of their own family, or PTX that the driver finishes."""
    known = (75, 80, 90, 100, 103, 120) if architecture == 110 else (75, 80, 90, 100, 120)
    monkeypatch.setattr(compiler, "_nvrtc", lambda: (None, (13, 0), known))
    assert compiler.target(architecture) == expected


def test_gpus_older_than_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_nvrtc", lambda: (None, (13, 0), (75, 80)))
    with pytest.raises(CompileError, match=r"from sm_75 on, this one is an sm_70.*cuda12"):
        compiler.target(70)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    compiler._nvrtc.cache_clear()
    try:
        with pytest.raises(MissingLibraryError, match=r"NVRTC: \w+Error.*scanlib\[cuda13\]"):
            compiler.build(SMALL, 90)
        assert "scanlib[cuda12]" in compiler.unavailable()
    finally:
        monkeypatch.undo()
        compiler._nvrtc.cache_clear()
    assert compiler.unavailable() == ""


def test_the_package_has_the_source() -> None:
    assert compiler.ENTRY in compiler.source()
    assert "scanlib_kernel" in compiler.source()[compiler.ENTRY]


# ---- kept programs


def as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_images", {}), ("compiled", []), ("_problem", "")):
        monkeypatch.setattr(compiler, name, value)
    monkeypatch.setattr(compiler, "provider", compiler.program)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, as a process finds it that has compiled nothing yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCANLIB_CACHE_DIR", str(folder))
    as_new(monkeypatch)
    return folder


def forget() -> None:
    """As a new process begins, but for what is counted."""
    compiler._images.clear()


def entries(folder: Path) -> list[Path]:
    """Every file in the folder."""
    return list(folder.iterdir())


def test_a_program_is_compiled_once(cache: Path) -> None:
    image = compiler.program(SMALL, 90)
    assert image.startswith(ELF)
    assert len(entries(cache)) == 1
    assert compiler.program(SMALL, 90) == image
    forget()
    assert compiler.program(SMALL, 90) == image
    assert compiler.compiled == [(SMALL, 90)]
    compiler.program(SMALL, 80)
    assert compiler.compiled == [(SMALL, 90), (SMALL, 80)]
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("part", ["source", "standard", "version"])
def test_another_source_or_compiler_is_another_program(
    cache: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    compiler.program(SMALL, 90)
    changed = {name: text + "\n// changed" for name, text in compiler.source().items()}
    bindings, (major, minor), known = compiler._nvrtc()
    name, value = {
        "source": ("source", lambda: changed),
        "standard": ("STANDARD", "c++20"),
        "version": ("_nvrtc", lambda: (bindings, (major, minor + 1), known)),
    }[part]
    monkeypatch.setattr(compiler, name, value)
    compiler.program(SMALL, 90)
    assert compiler.compiled == [(SMALL, 90)] * 2
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "grown"])
def test_a_damaged_program_is_compiled_again(cache: Path, damage: str) -> None:
    image = compiler.program(SMALL, 90)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    middle = len(whole) // 2
    entry.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "emptied": b"",
            "grown": whole + b"more",
        }[damage]
    )
    forget()
    assert compiler.program(SMALL, 90) == image
    assert len(compiler.compiled) == 2
    assert entry.read_bytes() == whole, "the entry is whole again"


def test_a_folder_that_cannot_be_made_costs_only_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SCANLIB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert compiler.program(SMALL, 90).startswith(ELF)
    assert compiler.program(SMALL, 90).startswith(ELF)
    assert len(compiler.compiled) == 1, "kept in memory all the same"
    assert "Error" in compiler.cache_problem()
    assert "not used: " in scanlib.show_config("dicts")["cuda"]["cache state"]


def test_a_folder_that_cannot_be_written_is_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = compiler.program(SMALL, 90)
    forget()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    for module, name in ((Path, "write_bytes"), (os, "utime")):  # a superuser may do either
        monkeypatch.setattr(module, name, refuse)
    assert compiler.program(SMALL, 90) == image
    assert len(compiler.compiled) == 1
    assert not compiler.cache_problem()
    assert compiler.program(SMALL, 80).startswith(ELF)
    assert "Permission denied" in compiler.cache_problem()


def test_an_entry_in_the_way_costs_only_time(cache: Path) -> None:
    compiler.program(SMALL, 90)
    (entry,) = entries(cache)
    entry.unlink()
    entry.mkdir()
    forget()
    assert compiler.program(SMALL, 90).startswith(ELF)
    assert len(compiler.compiled) == 2
    assert compiler.cache_problem()
    assert entries(cache) == [entry], "nothing half-written is left"


def test_no_home_costs_only_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SCANLIB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert compiler.program(SMALL, 90).startswith(ELF)
    assert "home directory" in compiler.cache_problem()


def test_what_was_used_least_recently_goes_first(cache: Path) -> None:
    def keep(key: str) -> None:
        file_cache.write(cache, key, bytes(968), limit=3000)

    for age, key in enumerate("abc"):
        keep(key)
        os.utime(cache / f"{key}.kept", (age, age))
    half_written, foreign = cache / "d.1.partial", cache / "another's"
    for path in (half_written, foreign):
        path.write_bytes(bytes(900))
        os.utime(path, (0, 0))
    assert sorted(file_cache.sizes(cache)) == [1000] * 3, "of programs alone"
    assert file_cache.read(cache, "a") == bytes(968)
    keep("e")
    assert {path.name for path in entries(cache)} == {"a.kept", "c.kept", "e.kept", "another's"}


def test_the_folder_is_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(compiler.program(SMALL, 90))
    monkeypatch.setattr(compiler, "MAX_CACHE_BYTES", 2 * size)
    compiler.program(SMALL, 80)
    compiler.program(SMALL, 75)
    assert sum(path.stat().st_size for path in entries(cache)) <= 2 * size
    assert not compiler.cache_problem()


def test_a_prepared_run_compiles_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SCANLIB_CUDA_COMPILE=never what was not prepared is an error that names it."""
    image = compiler.program(SMALL, 90)
    forget()
    compiler.compiled.clear()
    monkeypatch.setenv("SCANLIB_CUDA_COMPILE", "never")
    assert compiler.program(SMALL, 90) == image
    with pytest.raises(CompileError, match=f"for sm_80 with {SMALL} is not kept.*{cache}"):
        compiler.program(SMALL, 80)
    for value in ("", "auto", "sometimes"):
        monkeypatch.setenv("SCANLIB_CUDA_COMPILE", value)
        assert compiler.compiled == []
        if value == "sometimes":
            with pytest.raises(CompileError, match="'sometimes'; expected auto or never"):
                compiler.program(SMALL, 75)
        else:
            compiler.program(SMALL, 80)
            assert compiler.compiled == [(SMALL, 80)]
        forget()
        compiler.compiled.clear()
        for path in entries(cache):
            path.unlink()


def test_processes_share_a_cache(cache: Path) -> None:
    code = (
        "import hashlib, sys\nfrom scanlib import compiler\n"
        "print(hashlib.sha256(compiler.program(sys.argv[1], 90)).hexdigest(), compiler.cache_problem())"
    )
    command = [sys.executable, "-P", "-c", code, SMALL]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1, said
    assert len(said.pop().split()) == 1, "no process had a problem"
    assert len(entries(cache)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_does_not_wait_for_a_compilation_of_its_parent(cache: Path) -> None:
    """A process that forks while one of its threads compiles has children that compile."""
    code = f"""
import os, sys, threading
from scanlib import compiler
begun, end = threading.Event(), threading.Event()
def build(*_):
    begun.set()
    end.wait()
    return b"the parent's"
build_here, compiler.build = compiler.build, build
parent = threading.Thread(target=compiler.program, args=({SMALL!r}, 90))
parent.start()
begun.wait()
child = os.fork()
if child == 0:
    compiler.build = build_here
    os._exit(0 if compiler.program({SMALL!r}, 90).startswith({ELF!r}) else 3)
for _ in range(6000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    end.wait(0.1)
else:
    os.kill(child, 9)
    status = "the child hangs"
end.set()
parent.join()
sys.exit(status and str(status))
"""
    command = [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", code]
    environment = os.environ | {"SCANLIB_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_show_config_tells_of_the_cache(cache: Path) -> None:
    assert scanlib.show_config("dicts")["cuda"]["cache state"] == "not made yet"
    compiler.program(SMALL, 90)
    section = scanlib.show_config("dicts")["cuda"]
    assert section["cache"] == str(cache)
    assert section["cache state"].startswith("1 programs, 0.")
    assert "cuda-nvrtc" in section["NVRTC"]


# ---- what libscanlib asks


def test_libscanlib_is_given_the_image(cache: Path) -> None:
    image, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = compiler.callback(SMALL.encode(), 90, ctypes.byref(image), ctypes.byref(size))
    assert status == 0
    assert ctypes.string_at(image.value or 0, size.value) == compiler.program(SMALL, 90)


def test_libscanlib_is_given_a_reason(cache: Path) -> None:
    image, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = compiler.callback(b"-DSCANLIB_KERNEL=0", 90, ctypes.byref(image), ctypes.byref(size))
    assert status == native.E_COMPILE
    assert b"does not compile" in ctypes.string_at(image.value or 0, size.value)


def test_every_adapter_asks_the_same_plan() -> None:
    """`gpu.programs` and `gpu.describe` need no GPU, and a problem without elements needs no program."""
    problem = dense_problem((4, 0), 0, ("a", "x", "h"))
    assert gpu.programs(problem) == []
    assert np.prod([len(gpu.programs(p)) for p in cuda_gate._problems(3, 3)]) > 0
