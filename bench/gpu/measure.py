"""The price of an add, then the sweep over the numbers by which work is cut, in one process.

With the first library that has a GPU: what matters most, the rest while there is time, the sweep. Then the other
libraries, whose start and whose compilers take time from what only one of them is needed for.
"""

from __future__ import annotations

import sys
import time

from bench.core import progress
from bench.gpu import libraries as gpu_libraries
from bench.gpu import price as gpu_price
from bench.gpu import report as gpu_report
from bench.gpu import sweep as gpu_sweep

BEFORE_SWEEP, SWEEP = 0.45, 0.3  # shares of the time
IMPORT = 120  # seconds in which a library is imported and has its context made, on a machine that has read none of it


def main() -> int:
    parser = gpu_report.arguments("bench.gpu.measure", __doc__, 150)
    options = parser.parse_args()
    price = gpu_report.Report("price", options.output, options.seconds)
    sweep = gpu_report.Report("sweep", options.output)
    dtypes, ready, began = options.dtypes.split(","), [], time.monotonic()
    for name in options.libraries.split(","):
        progress.enter(f"importing {name}", IMPORT)
        if reason := gpu_libraries.missing(name):
            price.left_out(name, reason)
            continue
        library = gpu_libraries.load(name)
        if not ready:
            price.run(gpu_price.roof(library, options.log2))
        price.run(gpu_price.main_jobs(library, options.log2, dtypes))
        if not ready:
            more = gpu_price.more_jobs(library, options.log2, dtypes)
            price.run(more, began + BEFORE_SWEEP * options.seconds)
            price.run([("clocks", gpu_price.clocks)])
            if name == "jax":
                sweep.left_out("everything", "it needs PyTorch or CuPy")
            else:
                until = time.monotonic() + SWEEP * options.seconds
                gpu_sweep.run(sweep, library, options.log2, until)
        ready.append(name)
    if not ready:
        return gpu_report.could_not(price, "no library has a GPU here")
    return sweep.close() | price.close()


if __name__ == "__main__":
    sys.exit(main())
