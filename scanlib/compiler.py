"""CUDA programs: the source in scanlib/cuda, specialised by definitions and compiled by NVRTC, kept on disk.

libscanlib asks for a program when a problem first needs it (`answer`). Nothing here needs a GPU or a driver.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scanlib.errors import MissingLibraryError, NativeError

ENTRY = "scanlib.cu"
STANDARD = "c++17"
MAX_CACHE_BYTES = 256 * 2**20

E_COMPILER, E_COMPILE = 7, 8


class CompileError(NativeError):
    """A CUDA kernel that does not compile."""


# ---- the source


def source_folder() -> Path:
    """Where the device code lies: scanlib/cuda, or the checkout's folder of an editable install."""
    spec = importlib.util.find_spec("scanlib.cuda")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in map(Path, folders):
        if (folder / ENTRY).exists():
            return folder
    raise MissingLibraryError(
        f"The CUDA source {ENTRY} was not found in {', '.join(folders) or 'scanlib/cuda'}. Install scanlib again."
    )


@functools.cache
def source() -> dict[str, str]:
    """The files of the device code by name; `ENTRY` includes what it needs of the others."""
    folder = source_folder()
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.iterdir())
        if path.suffix in (".cu", ".cuh", ".h")
    }


# ---- compiling


@functools.cache
def _nvrtc() -> tuple[Any, tuple[int, int], tuple[int, ...]]:
    """`cuda.core`, the version of NVRTC, and the architectures it compiles for."""
    try:
        import cuda.core
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
        failed, architectures = nvrtc.nvrtcGetSupportedArchs()[:2]
        if int(status) or int(failed):
            raise RuntimeError(f"NVRTC does not start: {status}, {failed}")
    except Exception as error:  # ImportError, or whatever a half-installed toolkit makes of it
        raise MissingLibraryError(
            "CUDA kernels are compiled when they are first used, which needs cuda-core and NVRTC: "
            f"{type(error).__name__}: {error}. Install them with pip install 'scanlib[cuda13]', or 'scanlib[cuda12]' "
            "for drivers before CUDA 13."
        ) from None
    return cuda.core, (major, minor), tuple(sorted(architectures))


def unavailable() -> str:
    """Why nothing can be compiled here; empty if it can."""
    try:
        _nvrtc()
        source_folder()
    except MissingLibraryError as error:
        return str(error)
    return ""


def target(architecture: int) -> tuple[str, str]:
    """What to compile for a device: ("cubin", "sm_90"), or PTX for the driver to finish where NVRTC is older."""
    _, version, known = _nvrtc()
    if architecture in known:
        return "cubin", f"sm_{architecture}"
    older = [arch for arch in known if arch < architecture]
    if not older:
        raise CompileError(
            f"NVRTC {version[0]}.{version[1]} compiles for GPUs from sm_{known[0]} on, this one is an "
            f"sm_{architecture}. Install scanlib[cuda12], whose compiler knows older ones."
        )
    newest = older[-1]
    # Machine code runs on later chips of its own family only.
    if newest // 10 == architecture // 10:
        return "cubin", f"sm_{newest}"
    return "ptx", f"compute_{newest}"


def build(definitions: str, architecture: int, ptxas: Iterable[str] = (), log: Any = None) -> bytes:
    """Compile the source for an architecture (90 for sm_90); `definitions` as "-DNAME=VALUE -DOTHER=1"."""
    core, _, _ = _nvrtc()
    kind, arch = target(architecture)
    macros = [
        (name, value or "1")
        for name, _, value in (
            part.removeprefix("-D").partition("=") for part in definitions.split()
        )
    ]
    options = core.ProgramOptions(
        name=ENTRY,
        arch=arch,
        std=STANDARD,
        include_path=str(source_folder()),
        define_macro=macros,
        ptxas_options=list(ptxas) or None,
    )
    try:
        return bytes(core.Program(source()[ENTRY], "c++", options).compile(kind, logs=log).code)
    except Exception as error:
        raise CompileError(
            f"A CUDA kernel does not compile for sm_{architecture} with {definitions}: {error}"
        ) from None


# ---- kept programs

_images: dict[str, bytes] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    """Another thread of the parent may have been compiling."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def program(definitions: str, architecture: int) -> bytes:
    """The compiled program, from memory or disk if it was made before."""
    key = _key(definitions, architecture)
    with _lock:
        image = _images.get(key)
        if image is None:
            image = _read(key)
            if image is None:
                image = build(definitions, architecture)
                _write(key, image)
            _images[key] = image
        return image


def _key(definitions: str, architecture: int) -> str:
    _, version, _ = _nvrtc()
    parts = (source(), definitions, target(architecture), STANDARD, version)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def cache_folder() -> Path:
    """Where programs are kept: `SCANLIB_CACHE_DIR`, else scanlib in the user's cache folder."""
    if explicit := os.environ.get("SCANLIB_CACHE_DIR"):
        return Path(explicit)
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path("~/.cache").expanduser()) / "scanlib"


@functools.cache
def _opened(folder: Path) -> Any:
    """cuda.core's cache of files that are written whole or not at all; OSError where the folder cannot be made."""
    from cuda.core.utils import FileStreamProgramCache

    return FileStreamProgramCache(folder, max_size_bytes=MAX_CACHE_BYTES)


_problem = ""


def cache_problem() -> str:
    """Why the last program was not read from or written to disk; empty if it was, or none was needed."""
    return _problem


def _read(key: str) -> bytes | None:
    """A program from disk; None where there is none or its checksum is wrong. No state of the disk is an error."""
    global _problem
    _problem = ""
    try:
        kept: bytes | None = _opened(cache_folder()).get(key)
    except (OSError, ImportError, RuntimeError) as error:
        _problem = f"{type(error).__name__}: {error}"
        return None
    if kept is None:
        return None
    image, checksum = kept[:-_CHECKSUM], kept[-_CHECKSUM:]
    return image if hashlib.sha256(image).digest() == checksum else None


def _write(key: str, image: bytes) -> None:
    global _problem
    try:
        _opened(cache_folder())[key] = image + hashlib.sha256(image).digest()
    except (OSError, ImportError, RuntimeError) as error:
        _problem = f"{type(error).__name__}: {error}"


_CHECKSUM = hashlib.sha256().digest_size


# ---- what libscanlib calls

_ANSWER = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_size_t),
)
_given = threading.local()


def _answer(definitions: bytes, architecture: int, image: Any, size: Any) -> int:
    status = 0
    try:
        data = program(definitions.decode(), architecture)
    except MissingLibraryError as error:
        status, data = E_COMPILER, str(error).encode()
    except BaseException as error:  # nothing may pass through the C code that called
        status, data = E_COMPILE, (str(error) or repr(error)).encode()
    _given.data = data  # stays until this thread calls again
    image[0] = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    size[0] = len(data)
    return status


#: `scanlib_cuda_compiler` of native/scanlib.h
answer = _ANSWER(_answer)
