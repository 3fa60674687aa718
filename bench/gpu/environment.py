"""An environment in which `import scanlib` finds this checkout, on a machine where nothing is or can be installed.

build/gpu-check holds what `make gpu-prepare` has made elsewhere: libscanlib, compiled programs, CUB's program. It may
be copied along. What is missing there is made here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from bench.core.machine import ROOT

#: Of this machine, and of one run at a time.
WORK = Path(os.environ.get("GPU_CHECK_WORK") or ROOT / "build" / "gpu-work")
PREPARED = ROOT / "build" / "gpu-check"
PROGRAMS = "programs.tar.xz"
NEEDED = ("numpy", "pytest", "pytest_timeout", "hypothesis", "ml_dtypes", "array_api_compat")


def prepare(
    log: IO[str], commit: str | None = None, prepared: Path = PREPARED, work: Path = WORK
) -> dict[str, str]:
    """The variables of the environment; builds and links together what is not installed."""
    site = work / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for folder in ("bench", "experiments"):
        (site / folder).symlink_to(ROOT / folder)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "GPU_CHECK_CUB": str(prepared / "cub_scan"),
    }
    if "SCANLIB_CACHE_DIR" not in environment:
        environment["SCANLIB_CACHE_DIR"] = str(work / "cache")
        unpack(prepared / PROGRAMS, work / "cache")
    if commit:
        environment["GPU_CHECK_COMMIT"] = commit
    if "SCANLIB_LIBRARY" not in environment and (library := built(prepared)) is not None:
        environment["SCANLIB_LIBRARY"] = str(library)
    if not installed(environment, work):
        package = site / "scanlib"
        package.mkdir()
        for source in (ROOT / "scanlib").iterdir():
            if source.name != "__pycache__" and source.suffix not in (".so", ".dylib"):
                (package / source.name).symlink_to(source)
        for name in ("backends", "cuda"):
            (package / name).symlink_to(ROOT / name)
        ready = "SCANLIB_LIBRARY" in environment and loads(environment, work)
        if "SCANLIB_LIBRARY" not in os.environ and not ready:
            environment["SCANLIB_LIBRARY"] = str(build(log, work))
    link_vendored(site)
    absent = [
        name
        for name in NEEDED
        if importlib.util.find_spec(name) is None and not (site / name).exists()
    ]
    if absent:
        print(f"not installed, so the tests cannot run: {', '.join(absent)}")
    return environment


# ---- compiled programs, which are much alike: an archive has a tenth of their size


def pack(files: list[Path], archive: Path) -> None:
    with tarfile.open(archive, "w:xz", preset=3) as tar:
        for file in files:
            tar.add(file, file.name)


def unpack(archive: Path, cache: Path) -> None:
    """Add an archive's programs to the folder where scanlib looks for them, once."""
    if not archive.exists():
        return
    status = archive.stat()
    stamp, note = f"{status.st_size} {status.st_mtime_ns}", cache / "unpacked"
    if note.exists() and note.read_text() == stamp:
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    note.write_text(stamp)


# ---- libscanlib


def sources() -> str:
    """A digest of what libscanlib is made of."""
    digest = hashlib.sha256()
    for path in sorted(
        [
            ROOT / "CMakeLists.txt",
            *(p for f in ("cmake", "native", "cuda") for p in (ROOT / f).glob("*.*")),
        ]
    ):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def keep(library: Path, prepared: Path) -> None:
    """Put libscanlib where it is copied along from, beside a note of its sources."""
    prepared.mkdir(parents=True, exist_ok=True)
    shutil.copy2(library, prepared / "libscanlib.so")
    (prepared / "libscanlib.sources").write_text(sources())


def built(prepared: Path) -> Path | None:
    """The libscanlib of `keep`; None where it is of other sources."""
    library, note = prepared / "libscanlib.so", prepared / "libscanlib.sources"
    fits = library.exists() and note.exists() and note.read_text() == sources()
    return library if fits else None


def build(log: IO[str], work: Path = WORK) -> Path:
    """libscanlib, by CMake; ends the program where that fails."""
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    folder = work / "native"
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    for command in (configure, [cmake, "--build", str(folder), "--parallel"]):
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
        except OSError as error:
            raise SystemExit(f"libscanlib cannot be built: {error}") from None
        log.write(done.stdout)
        if done.returncode:
            raise SystemExit(f"libscanlib does not build:\n{done.stdout[-3000:]}")
    return next(folder.glob("libscanlib.*"))


# ---- the package


def installed(environment: dict[str, str], work: Path) -> bool:
    """Whether this Python has scanlib from this checkout, libscanlib with it."""
    code = (
        "import scanlib, scanlib.backends, scanlib.gpu, pathlib\n"
        "scanlib.gpu.library()\n"
        "print(pathlib.Path(scanlib.__file__).resolve().parent.parent)"
    )
    return _printed(code, environment, work) == str(ROOT)


def loads(environment: dict[str, str], work: Path) -> bool:
    """Whether the package put together finds a libscanlib that loads here."""
    return (
        _printed("import scanlib.gpu; print(bool(scanlib.gpu.library()))", environment, work)
        == "True"
    )


def _printed(code: str, environment: dict[str, str], work: Path) -> str:
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=work, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def link_vendored(site: Path) -> None:
    """array-api-compat from a library that carries a copy of it, where it is not installed by itself."""
    name = "array_api_compat"
    if importlib.util.find_spec(name) is not None:
        return
    for library, inside in (("scipy", "_lib"), ("scipy", "_external"), ("sklearn", "externals")):
        spec = importlib.util.find_spec(library)
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            copy = Path(folder) / inside / name
            if (copy / "__init__.py").exists():
                (site / name).symlink_to(copy)
                return


def unpacked(wheels: Path, work: Path = WORK) -> Path:
    """A folder with what the wheels of another hold: packages that compile sources of their own must lie in files."""
    target = work / "wheels"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return target


def rehearsed(environment: dict[str, str], work: Path = WORK) -> dict[str, str]:
    """The same with a driver that launches nothing in the GPU's place: `bench.gpu.rehearsal`."""
    target = work / "libfake_cuda.so"
    source = ROOT / "tests" / "native" / "fake_cuda.c"
    # fmt: off
    command = ["cc", "-std=gnu11", "-shared", "-fPIC", "-pthread", str(source), "-o", str(target)]
    # fmt: on
    subprocess.run(command, check=True)
    return {**environment, "GPU_CHECK_REHEARSE": str(target)}
