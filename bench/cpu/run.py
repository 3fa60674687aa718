"""`python bench/cpu/run.py`: start the benchmarks from a checkout; `--help` lists what it takes."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from bench.cpu.command import main

    sys.exit(main())
