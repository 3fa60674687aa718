"""CUDA programs: the source in scanlib/cuda, specialised by definitions and compiled by NVRTC, kept on disk.

A plan has its programs compiled when it is made (`scanlib.plan.prepare`), libscanlib asks for what it meets without one
(`callback`): both ask `provider`. Nothing here needs a GPU or a driver.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scanlib import file_cache
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
    """`cuda.bindings.nvrtc`, the version of NVRTC, and the architectures it compiles for."""
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
        failed, architectures = nvrtc.nvrtcGetSupportedArchs()[:2]
        if int(status) or int(failed):
            raise RuntimeError(f"NVRTC does not start: {status}, {failed}")
    except Exception as error:  # ImportError, or whatever a half-installed toolkit makes of it
        raise MissingLibraryError(
            "CUDA kernels are compiled when they are first used, which needs cuda-bindings and NVRTC: "
            f"{type(error).__name__}: {error}. Install them with pip install 'scanlib[cuda13]', or 'scanlib[cuda12]' "
            "for drivers before CUDA 13."
        ) from None
    return nvrtc, (major, minor), tuple(sorted(architectures))


def unavailable() -> str:
    """Why nothing can be compiled here; empty if it can."""
    try:
        _nvrtc()
        source_folder()
    except MissingLibraryError as error:
        return str(error)
    return ""


def nvrtc_version() -> str:
    """As "13.0"."""
    return ".".join(map(str, _nvrtc()[1]))


def target(architecture: int) -> tuple[str, str]:
    """What to compile for a device: ("cubin", "sm_90"), or PTX for the driver to finish where NVRTC is older."""
    known = _nvrtc()[2]
    if architecture in known:
        return "cubin", f"sm_{architecture}"
    older = [arch for arch in known if arch < architecture]
    if not older:
        raise CompileError(
            f"NVRTC {nvrtc_version()} compiles for GPUs from sm_{known[0]} on, this one is an "
            f"sm_{architecture}. Install scanlib[cuda12], whose compiler knows older ones."
        )
    newest = older[-1]
    # Machine code runs on later chips of its own family only.
    if newest // 10 == architecture // 10:
        return "cubin", f"sm_{newest}"
    return "ptx", f"compute_{newest}"


def build(definitions: str, architecture: int, ptxas: Iterable[str] = (), log: Any = None) -> bytes:
    """Compile the source for an architecture (90 for sm_90); `definitions` as "-DNAME=VALUE -DOTHER=1"."""
    kind, arch = target(architecture)
    options = [f"--gpu-architecture={arch}", f"--std={STANDARD}", *definitions.split()]
    options += [f"--ptxas-options={option}" for option in ptxas]
    given = [*map(str.encode, options), b"--include-path=" + os.fsencode(source_folder())]
    made = _call("CreateProgram", source()[ENTRY].encode(), ENTRY.encode(), 0, None, None)
    try:
        _call("CompileProgram", made, len(given), given)
        if log is not None:
            log.write(_output("ProgramLog", made).decode(errors="replace"))
        return _output(kind.upper(), made)
    except RuntimeError as error:
        said = _output("ProgramLog", made).rstrip(b"\0\n").decode(errors="replace")
        raise CompileError(
            f"A CUDA kernel does not compile for sm_{architecture} with {definitions}: {error}\n{said}"
        ) from None
    finally:
        _call("DestroyProgram", made)


def _call(name: str, *arguments: Any) -> Any:
    status, *results = getattr(_nvrtc()[0], f"nvrtc{name}")(*arguments)
    if int(status):
        raise RuntimeError(f"nvrtc{name} returned {status.name}")
    return results[0] if results else None


def _output(name: str, made: Any) -> bytes:
    content = bytearray(_call(f"Get{name}Size", made))
    _call(f"Get{name}", made, content)
    return bytes(content)


# ---- kept programs

#: (definitions, architecture) of every program that this process had to compile, in order.
compiled: list[tuple[str, int]] = []

_images: dict[str, bytes] = {}
_lock = threading.Lock()
_problem = ""


def _after_fork() -> None:
    """Another thread of the parent may have been compiling."""
    global _lock
    _lock = threading.Lock()
    compiled.clear()


os.register_at_fork(after_in_child=_after_fork)


def program(definitions: str, architecture: int) -> bytes:
    """The compiled program, from memory or disk if it was made before."""
    key = _key(definitions, architecture)
    if image := _images.get(key):  # no plan waits for what another thread compiles
        return image
    with _lock:
        image = _images.get(key) or _read(key)
        if image is None:
            _refuse_where_unwanted(definitions, architecture)
            image = build(definitions, architecture)
            compiled.append((definitions, architecture))
            _write(key, image)
        _images[key] = image
        return image


def _key(definitions: str, architecture: int) -> str:
    files = _checksum(tuple(source().items()))
    parts = (files, definitions, target(architecture), STANDARD, nvrtc_version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _checksum(files: tuple[tuple[str, str], ...]) -> str:
    """Worked out once, because every plan asks for its programs."""
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _refuse_where_unwanted(definitions: str, architecture: int) -> None:
    """`SCANLIB_CUDA_COMPILE=never` makes an error of what would have to be compiled."""
    wanted = os.environ.get("SCANLIB_CUDA_COMPILE") or "auto"
    if wanted not in ("auto", "never"):
        raise CompileError(f"SCANLIB_CUDA_COMPILE is {wanted!r}; expected auto or never.")
    if wanted == "never":
        raise CompileError(
            f"SCANLIB_CUDA_COMPILE is never, and the program for sm_{architecture} with {definitions} is not kept: "
            f"{_problem or f'it is not in {cache_folder()}'}. Run the same once with SCANLIB_CUDA_COMPILE=auto, "
            "where scanlib and NVRTC are of the same versions."
        )


def cache_folder() -> Path:
    """Where programs are kept: `SCANLIB_CACHE_DIR`, else scanlib in the user's cache folder."""
    if explicit := os.environ.get("SCANLIB_CACHE_DIR"):
        return Path(explicit)
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path("~/.cache").expanduser()) / "scanlib"


def cache_problem() -> str:
    """Why the last program was not read from or written to disk; empty if it was, or none was needed."""
    return _problem


def _read(key: str) -> bytes | None:
    """A program from disk, if there is one. No state of the disk is an error."""
    global _problem
    _problem = ""
    try:
        return file_cache.read(cache_folder(), key)
    except (OSError, RuntimeError) as error:
        _problem = f"{type(error).__name__}: {error}"
        return None


def _write(key: str, image: bytes) -> None:
    global _problem
    try:
        file_cache.write(cache_folder(), key, image, MAX_CACHE_BYTES)
    except (OSError, RuntimeError) as error:
        _problem = f"{type(error).__name__}: {error}"


#: What is asked for a program: definitions and an architecture (90 for sm_90). Tests put their own in its place.
provider: Callable[[str, int], bytes] = program


# ---- what libscanlib calls

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_size_t),
)
_given = threading.local()


def _compile_for(definitions: bytes, architecture: int, image: Any, size: Any) -> int:
    status = 0
    try:
        data = provider(definitions.decode(), architecture)
    except MissingLibraryError as error:
        status, data = E_COMPILER, str(error).encode()
    except BaseException as error:  # nothing may pass through the C code that called
        status, data = E_COMPILE, (str(error) or repr(error)).encode()
    _given.data = data  # stays until this thread calls again
    image[0] = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    size[0] = len(data)
    return status


#: `scanlib_cuda_compiler` of native/scanlib.h
callback = _CALLBACK(_compile_for)
