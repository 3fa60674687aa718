"""What scanlib does on each array library: one table behind the tests' skips and the README's support table.

`python tests/capabilities.py` prints the table for the README.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ALL_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
STANDARD_DTYPES = ("float32", "float64", "complex64", "complex128")


class Backend(Enum):
    """The members of the test matrix."""

    NUMPY = "numpy"
    NUMPY_READONLY = "numpy_readonly"
    STRICT = "strict"
    TORCH = "torch"
    TORCH_COMPILE = "torch_compile"
    JAX = "jax"
    JAX_JIT = "jax_jit"
    CUPY = "cupy"
    TORCH_CUDA = "torch_cuda"
    JAX_CUDA = "jax_cuda"
    EMULATED = "emulated"


@dataclass(frozen=True)
class Capability:
    """What holds for a member of the matrix, and how much of the suite it is given.

    Attributes
    ----------
    library, modules
        What users call it, and what has to be importable.
    missing
        Why scanlib cannot serve this member yet; empty if it can. What this machine lacks is found by `matrix.missing`.
    gpu
        Whether it needs a GPU.
    dtypes
        Of those scanlib computes in, the ones this library has.
    out
        Whether `out=` is taken, so whether arrays are mutable and the call runs at once.
    native
        Whether libscanlib runs, so whether its speed and its bits can be expected.
    gradients, transforms
        For the README: how gradients are had, what else composes.
    cases
        The most cases a test draws from a list for this member: compiling one costs up to seconds.
    large
        Of the shapes of a million elements, how many.
    thorough
        Whether tests marked `thorough` run for it.
    everyday
        The dtypes of which everyday tests are made; tests of the others are marked slow.
    functions
        Whether there is more to the library than its arrays, so whether cells can be computed in it.
    """

    library: str
    modules: tuple[str, ...]
    missing: str = ""
    gpu: bool = False
    dtypes: tuple[str, ...] = ALL_DTYPES
    out: bool = True
    native: bool = True
    gradients: str = "`linear_recurrence_vjp`"
    transforms: str = ""
    cases: int = 10_000
    large: int = 0
    thorough: bool = True
    everyday: tuple[str, ...] = ALL_DTYPES
    functions: bool = True

    @property
    def sixteen_bits(self) -> bool:
        return "float16" in self.dtypes


_TORCH = "`torch.func`, `torch.compile`, `torch.export`, autocast"
_JAX = "`jit`, `vmap`, `linearize`, `remat`, `shard_map`, export"
_AUTODIFF = "autodiff, any order, both modes"
#: Where each dtype has to be compiled: those of one and of two words, and the one that widens.
_FEW = ("bfloat16", "float32", "complex64")

CAPABILITIES = {
    Backend.NUMPY: Capability("NumPy", ("numpy",), large=7),
    Backend.NUMPY_READONLY: Capability("NumPy", ("numpy",), out=False, cases=40),
    Backend.STRICT: Capability(
        "any array-API library",
        ("array_api_strict",),
        dtypes=STANDARD_DTYPES,
        native=False,
        transforms="stays lazy where the library is",
        cases=24,
        everyday=("float32", "complex64"),
    ),
    Backend.TORCH: Capability(
        "PyTorch", ("torch",), gradients=_AUTODIFF, transforms=_TORCH, cases=200, large=3
    ),
    Backend.TORCH_COMPILE: Capability(
        "PyTorch",
        ("torch",),
        out=False,
        gradients=_AUTODIFF,
        cases=2,
        thorough=False,
        everyday=("float32",),
    ),
    Backend.JAX: Capability(
        "JAX",
        ("jax", "jaxlib"),
        out=False,
        gradients=_AUTODIFF,
        transforms=_JAX,
        cases=16,
        large=2,
        everyday=_FEW,
    ),
    Backend.JAX_JIT: Capability(
        "JAX", ("jax", "jaxlib"), out=False, gradients=_AUTODIFF, cases=8, everyday=("float32",)
    ),
    Backend.CUPY: Capability("CuPy", ("cupy",), gpu=True, cases=60, large=7),
    Backend.TORCH_CUDA: Capability(
        "PyTorch", ("torch",), gpu=True, gradients=_AUTODIFF, transforms=_TORCH, cases=60, large=3
    ),
    Backend.JAX_CUDA: Capability(
        "JAX",
        ("jax", "jaxlib"),
        gpu=True,
        out=False,
        gradients=_AUTODIFF,
        transforms=_JAX,
        cases=16,
        large=2,
    ),
    Backend.EMULATED: Capability(
        "the CUDA kernels on a CPU",
        ("numpy",),
        cases=12,
        large=2,
        functions=False,
        everyday=("bfloat16", "float32"),
    ),
}

#: The members that stand for their library in the README.
SHOWN = (Backend.NUMPY, Backend.CUPY, Backend.TORCH, Backend.JAX, Backend.STRICT)


#: Where `make gpu-check` leaves a folder for each GPU.
RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"


def cards(results: Path = RESULTS) -> list[str]:
    """The GPUs on which the tests have passed, by what `make gpu-check` has left of it."""
    found = []
    for path in sorted(results.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        tests = [step for step in summary["steps"] if step["name"].startswith("tests")]
        passed = all(step["verdict"] == "passed" for step in tests)
        if summary["gpu"] and tests and passed:
            found.append(str(summary["gpu"]))
    return found


def support_table(results: Path = RESULTS) -> str:
    """The README's table, in Markdown, and what is true of its CUDA so far."""
    gpus = cards(results)
    cuda = "CUDA" if gpus else "CUDA (emulated)"
    lines = ["| library | dtypes | runs on | gradients | also |", "|---|---|---|---|---|"]
    for backend in SHOWN:
        capability = CAPABILITIES[backend]
        dtypes = "all six" if capability.dtypes == ALL_DTYPES else "the standard's four"
        path = "its own functions, any device"
        if capability.native:
            on = {
                other.gpu for other in CAPABILITIES.values() if other.library == capability.library
            }
            path = f"libscanlib, {' and '.join(cuda if gpu else 'CPU' for gpu in sorted(on))}"
        also = ", ".join(
            part for part in (capability.transforms, "`out=`" if capability.out else "") if part
        )
        lines.append(
            f"| {capability.library} | {dtypes} | {path} | {capability.gradients} | {also} |"
        )
    note = (
        "The tests of kernels, streams, values, gradients and special values have passed on\n"
        f"{', '.join(gpus)}; what else needs one, on an emulation."
        if gpus
        else "CUDA has not run on a GPU yet: its kernels pass the tests on an emulation of one, and are compiled for\n"
        "every architecture from sm_75 on. `make gpu-check` is the test on a real one."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    print(support_table())
