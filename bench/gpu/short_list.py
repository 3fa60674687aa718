"""A few small calls that reach every kernel, checked on the CPU: the first to run, and what the sanitizer watches."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import scanlib
from bench.core import progress
from bench.core.reference import WrongResultError
from bench.gpu import libraries as gpu_libraries
from bench.gpu import report as gpu_report
from bench.gpu import stress as gpu_stress
from bench.gpu.report import Row

#: shape, axis, and the shape of `a`, which is summed over where it is repeated
CASES = [
    ((3, 200, 40), 1, (3, 200, 40)),
    ((3, 200, 40), 1, (40,)),
    ((5, 3000), 1, (5, 3000)),
    ((5, 3000), 1, (5, 1)),
    ((20_000, 3), 0, (20_000, 3)),
    ((20_000, 3), 0, (1, 1)),
    ((40_000,), 0, (40_000,)),
    ((300, 17), 1, (300, 17)),
]
DTYPES = ("float32", "float16", "complex128")


def jobs(library: Any, stacks: bool) -> Any:
    for shape, axis, a_shape in CASES:
        for dtype in DTYPES:
            yield (
                f"{shape} axis {axis}, a {a_shape}, {dtype}",
                lambda case=(shape, axis, a_shape), dtype=dtype: compare(library, *case, dtype),
            )
    if stacks:
        yield from gpu_stress.jobs(library, 1)


def compare(
    library: Any, shape: tuple[int, ...], axis: int, a_shape: tuple[int, ...], dtype: str
) -> Row:
    """Values and gradients beside those of the CPU."""
    random = np.random.default_rng(0)
    a = random.uniform(0.5, 1, a_shape).astype(dtype)
    # Small, so that a gradient summed in float16 stays finite.
    x, grad = ((random.standard_normal(shape) / 16).astype(dtype) for _ in range(2))
    h0 = random.standard_normal(np.delete(shape, axis)).astype(dtype)

    def both(a: Any, x: Any, h0: Any, grad: Any) -> tuple[Any, ...]:
        h, final = scanlib.linear_recurrence(a, x, h0, axis=axis, return_final=True)
        progress.beat("backward")
        return h, *scanlib.linear_recurrence_vjp(grad, a, h, h0, axis=axis, grad_final=final)

    progress.beat("forward")
    found = both(*(library.array(v) for v in (a, x, h0, grad)))
    library.wait()
    limit, worst = 5e-3 if dtype == "float16" else 1e-5, 0.0
    if library.computes:
        pairs = zip(("h", "grad_a", "grad_x", "grad_h0"), both(a, x, h0, grad), found, strict=True)
        for name, expected, actual in pairs:
            off = np.abs(library.to_numpy(actual).astype("complex128") - expected)
            worst = max(worst, error := float(off.max() / np.abs(expected).max()))
            if not error <= limit:
                raise WrongResultError(f"{name} is off by {error:.2g}")
    return {"case": f"{shape} axis {axis}, a {a_shape}", "dtype": dtype, "error": worst}


def main() -> int:
    parser = gpu_report.arguments("bench.gpu.short_list", __doc__, 60)
    parser.add_argument("--stage", default="short-list", help="of whose lines these are")
    parser.add_argument("--stacks", action="store_true", help="the cases of gpu_stress, once, too")
    options = parser.parse_args()
    report = gpu_report.Report(options.stage, options.output, options.seconds)
    progress.enter("importing", 120)
    try:
        library = gpu_libraries.first("cupy", "torch")
    except gpu_libraries.MissingError as error:
        return gpu_report.could_not(report, str(error))
    report.run(jobs(library, options.stacks))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
