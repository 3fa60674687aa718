"""What this installation consists of: versions, libscanlib, array libraries, CUDA driver, environment variables.

Made for bug reports, so nothing here raises and nothing imports a library that is not imported already.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from typing import Any, Literal, overload

from scanlib import compiler, file_cache, native
from scanlib.errors import MissingLibraryError

#: Every environment variable scanlib reads, and what it does.
ENVIRONMENT = {
    "SCANLIB_LIBRARY": "Path of the libscanlib to load in place of the one inside the package.",
    "SCANLIB_NUM_THREADS": "How many threads a call on the CPU uses at most. Not set: OMP_NUM_THREADS.",
    "OMP_NUM_THREADS": "The same for OpenMP programs. Neither set: the cores this process may run on.",
    "SCANLIB_ISA": "Instruction set of the CPU kernels: baseline, avx2, avx512 or neon. Not set: the machine's best.",
    "SCANLIB_CACHE_DIR": "Folder in which compiled CUDA kernels are kept. Not set: scanlib in the user's cache folder.",
    "SCANLIB_CUDA_COMPILE": "never: a CUDA kernel that is not kept is an error. auto: it is compiled. Not set: auto.",
}

#: Import name of each library that matters here -> the distributions that can provide it.
DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "array_api_compat": ("array-api-compat",),
    "torch": ("torch",),
    "jax": ("jax",),
    "jaxlib": ("jaxlib",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuda.bindings": ("cuda-bindings",),
}

#: The distributions that bring NVRTC, which compiles the CUDA kernels; a CUDA toolkit has it too.
NVRTC = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")

Section = dict[str, Any]


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Section]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Section] | None:
    """Show versions, libscanlib, array libraries, CUDA driver and environment variables.

    Works on a broken installation too and then says what is wrong with it. Array libraries are looked for without
    importing them. ``python -m scanlib`` prints the same.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print the configuration, or return it.

    Returns
    -------
    dict of dict or None
        With ``mode="dicts"``: the sections "versions", "libscanlib", "libraries", "cuda" and "environment".

    Raises
    ------
    ValueError
        For any other `mode`.

    Examples
    --------
    >>> import scanlib
    >>> scanlib.show_config("dicts")["versions"]["scanlib"] == scanlib.__version__
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(
            f'mode is {mode!r}; expected "stdout" to print or "dicts" to get a dictionary.'
        )
    config = {
        "versions": _guard(_versions),
        "libscanlib": _guard(_libscanlib),
        "libraries": _guard(_libraries),
        "cuda": _guard(_cuda),
        "environment": _guard(_environment),
    }
    if mode == "dicts":
        return config
    text = "\n".join(_lines(config))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return None


def _guard(section: Callable[[], Section]) -> Section:
    """The section, or why it could not be made: a report on a broken machine must come out all the same."""
    try:
        return section()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _versions() -> Section:
    import scanlib

    return {
        "scanlib": scanlib.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "package": os.path.dirname(scanlib.__file__),
    }


def _libscanlib() -> Section:
    path = str(native.library_path())
    try:
        library = native.library()
        return {
            "path": path,
            "version": library.scanlib_version().decode(),
            "abi": library.scanlib_abi_version(),
            "instruction set": library.scanlib_cpu_isa().decode(),
            "threads": library.scanlib_cpu_threads(),
        }
    except Exception as error:
        return {"path": path, "error": f"{type(error).__name__}: {error}"}


def _libraries() -> Section:
    return {name: _library(name, candidates) for name, candidates in DISTRIBUTIONS.items()}


def _library(name: str, distributions: tuple[str, ...]) -> Section:
    module = sys.modules.get(name)
    return {
        "found": module is not None or _is_importable(name),
        "loaded": module is not None,
        "version": getattr(module, "__version__", None) or _installed_version(distributions),
    }


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # an import hook that fails; None left in sys.modules
        return False


def _installed_version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _cuda() -> Section:
    """Driver, GPUs, compiler and cache. The driver is not started: a process that did could not be forked any more."""
    nvrtc = next((name for name in NVRTC if _installed_version((name,))), None)
    return {
        **_driver(),
        "GPUs": _gpus(),
        "NVRTC": f"{nvrtc} {_installed_version((nvrtc,))}" if nvrtc else "a CUDA toolkit's, if any",
        "device code": _told(compiler.source_folder),
        "cache": _told(compiler.cache_folder),
        "cache state": _told(_cache_state),
    }


def _told(function: Callable[[], Any]) -> str:
    """What it returns, or why it cannot: a folder may be missing, or a user have no home."""
    try:
        return str(function())
    except (MissingLibraryError, OSError, RuntimeError) as error:
        return f"unknown: {error}"


def _driver() -> Section:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        return {"driver": None, "reason": str(error)}
    version = ctypes.c_int(0)
    if status := driver.cuDriverGetVersion(ctypes.byref(version)):
        return {"driver": None, "reason": f"cuDriverGetVersion of {name} returned {status}"}
    return {
        "driver": name,
        "supports CUDA": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }


def _gpus() -> str:
    """The machine's GPUs as NVIDIA's management library tells them, whatever CUDA_VISIBLE_DEVICES hides."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown: libnvidia-ml.so.1 was not found"
    if status := nvml.nvmlInit_v2():
        return f"unknown: nvmlInit returned {status}"
    try:
        count = ctypes.c_uint(0)
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return ", ".join(_gpu(nvml, index) for index in range(count.value)) or "none"
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
    nvml.nvmlDeviceGetName(device, name, len(name))
    nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    return f"{name.value.decode(errors='replace')} (sm_{major.value}{minor.value})"


def _cache_state() -> str:
    if problem := compiler.cache_problem():
        return f"not used: {problem}"
    folder = compiler.cache_folder()
    if not folder.exists():
        return "not made yet"
    sizes = file_cache.sizes(folder)
    access = "" if os.access(folder, os.W_OK) else ", read-only"
    return f"{len(sizes)} programs, {sum(sizes) / 2**20:.1f} MiB{access}"


def _environment() -> Section:
    return {name: os.environ.get(name) for name in ENVIRONMENT}


def _lines(config: dict[str, Section]) -> list[str]:
    lines = []
    for title, section in config.items():
        lines.append(f"{title}:")
        lines += [f"  {key:20} {_text(value)}" for key, value in section.items()]
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return str(value)
    if not value["found"]:
        return "not found"
    return f"{value['version'] or 'version unknown'}{' (loaded)' if value['loaded'] else ''}"
