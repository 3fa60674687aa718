"""The wheel: built once, its contents looked at, installed into an empty environment and used there.

The rest is what makes one wheel serve every Python and every program: what libscanlib links, what it exports, and that
no code for one instruction set can end up in the path of another.
"""

from __future__ import annotations

import email.parser
import email.policy
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from native_build import ROOT, build, locked, run, tool

import scanlib

pytestmark = pytest.mark.slow
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the first test process that needs it."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "wheel"
    folder.mkdir(exist_ok=True)
    with locked(folder / "lock"):
        if not list(folder.glob("*.whl")):
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("scanlib/libscanlib.so", tmp_path_factory.mktemp("library")))


@pytest.fixture(scope="session")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what it depends on, nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel)
    return python


def in_empty(python: Path, *arguments: str, succeed: bool = True) -> str:
    done = subprocess.run(
        [str(python), "-W", "error", *arguments],
        cwd=python.parent,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "SCANLIB_"))
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == succeed, done.stderr
    return done.stdout if succeed else done.stderr


def test_one_wheel_for_every_python(wheel: Path) -> None:
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("scanlib", scanlib.__version__, "py3", "none")
    assert platform != "any"


def test_contents(wheel: Path) -> None:
    """All of the three folders inside the package, one library, its header; nothing beside the package."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = f"scanlib-{scanlib.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"scanlib", info}
    expected = {"scanlib/py.typed", "scanlib/include/scanlib.h", f"{info}/licenses/LICENSE"}
    for folder, inside in {
        "scanlib": "scanlib",
        "backends": "scanlib/backends",
        "cuda": "scanlib/cuda",
    }.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".cuh", ".cu", ".h"):
                expected.add(f"{inside}/{path.relative_to(ROOT / folder).as_posix()}")
    assert expected <= names
    assert [name for name in names if re.search(r"\.(so|dylib|dll)", name)] == [
        "scanlib/libscanlib.so"
    ]
    assert not [name for name in names if "__pycache__" in name or "test" in name]


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser(policy=email.policy.default).parsestr(
            archive.read(path).decode()
        )
    assert metadata["License-Expression"] == "Apache-2.0"
    needs = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.split(r"[<>=!~ ]", line)[0] for line in needs} == {"numpy", "array-api-compat"}
    extras = {"torch", "jax", "cuda12", "cuda13", "all", "test", "docs", "dev"}
    assert extras <= set(metadata.get_all("Provides-Extra"))


def test_installs_with_two_dependencies(empty: Path) -> None:
    code = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    assert in_empty(empty, "-c", code).split() == ["array-api-compat", "numpy", "scanlib"]


def test_runs_where_nothing_else_is_installed(empty: Path) -> None:
    code = """
import numpy as np, scanlib
h, final = scanlib.linear_recurrence(np.full((2, 3), 0.5), np.ones((2, 3)), axis=1, return_final=True)
grad_a, grad_x, _ = scanlib.linear_recurrence_vjp(np.ones((2, 3)), np.full((2, 3), 0.5), h, axis=1)
print(h[1].tolist(), final.tolist(), grad_x[0].tolist(), scanlib.explain(0.5, np.ones(3)).path)
"""
    assert in_empty(empty, "-c", code).strip() == (
        "[1.0, 1.5, 1.75] [1.75, 1.75] [1.75, 1.5, 1.0] libscanlib (cpu)"
    )


@pytest.mark.parametrize("name", ["backends", "cuda", "native"])
def test_folders_are_no_modules_of_their_own(empty: Path, name: str) -> None:
    assert f"No module named '{name}'" in in_empty(empty, "-c", f"import {name}", succeed=False)


def test_module_prints_the_configuration(empty: Path) -> None:
    printed = in_empty(empty, "-m", "scanlib")
    # The environment's own library, by the path that its Python sees.
    assert re.search(
        rf"^  path +{re.escape(str(empty.parent.parent))}/.*/scanlib/libscanlib\.so$",
        printed,
        re.MULTILINE,
    )
    assert re.search(r"^  torch +not found$", printed, re.MULTILINE)
    assert "error" not in printed


def test_import_needs_nothing_installed(empty: Path) -> None:
    """Not even what scanlib depends on is imported with it, but when an array comes."""
    code = """
import sys, scanlib
print(*(name for name in ("numpy", "array_api_compat") if name in sys.modules))
"""
    assert in_empty(empty, "-c", code).split() == []


def test_jax_handlers_are_built_in(library: Path) -> None:
    """A wheel without them would leave JAX on its slow path, silently."""
    assert b"scanlib_xla_cpu" in library.read_bytes()


@linux_only
def test_links_nothing_but_the_c_library(library: Path) -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run(tool("readelf"), "-d", library))
    assert needed
    assert {re.sub(r"[-.].*", "", name) for name in needed} <= {
        "libc",
        "libm",
        "libpthread",
        "libdl",
        "ld",
    }
    assert "RUNPATH" not in run(tool("readelf"), "-d", library)


@linux_only
def test_exports_the_c_interface_alone(library: Path) -> None:
    symbols = run(tool("nm"), "-D", "--defined-only", library).split()[2::3]
    assert [name for name in symbols if not name.startswith("scanlib_")] == []
    header = (ROOT / "native" / "scanlib.h").read_text()
    declared = set(re.findall(r"^SCANLIB_API [^(]*?(scanlib_\w+)\(", header, re.MULTILINE))
    assert len(declared) >= 10
    assert declared <= set(symbols)


@linux_only
def test_instruction_sets_do_not_leak() -> None:
    """Code compiled for AVX has no symbol that the linker could take in place of the baseline's own copy."""
    folder = build("plain")
    objects = sorted(folder.glob("CMakeFiles/scanlib_kernels_*.dir/native/*.o"))
    assert objects
    for path in objects:
        isa = re.search(r"scanlib_kernels_(\w+)\.dir", str(path))[1]  # type: ignore[index]
        symbols = [
            line.split(maxsplit=2)
            for line in run(tool("nm"), "-C", "--defined-only", path).splitlines()
        ]
        mergeable = [name for _, kind, name in symbols if kind in "WVu" and isa not in name]
        assert mergeable == [], f"{path.name} for {isa}"


def test_embeds_in_c() -> None:
    """The header is plain C11 and a program needs the library alone."""
    assert run(build("plain") / "tests" / "native" / "embed").splitlines() == [
        "1 1.5 1.75 | 17 35 71",
        "1.75 71 | 0.25 0.5 1 | 0 34 35",
    ]
