"""What everything else is measured on, as the first line of the results: machine, GPU, clocks, versions, commit."""

from __future__ import annotations

import sys

import scanlib
from bench.core import machine, progress
from bench.gpu import report as gpu_report


def main() -> int:
    options = gpu_report.arguments("bench.gpu.versions", __doc__).parse_args()
    report = gpu_report.Report("versions", options.output)
    progress.enter("versions", 60)
    settings = {"log2": options.log2, "dtypes": options.dtypes, "libraries": options.libraries}
    header = machine.header(settings)
    report.write(header=header)
    scanlib.show_config()
    status = report.close()
    print(f"scanlib at {header['commit']} on {header['gpu']['name'] or 'no GPU'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
