"""bench/cpu/compare.py: two libraries in one process, each called as often as the other, by all calls of an adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from native_build import ROOT

from scanlib import native

#: Says which library each call of a function goes to, for two copies of one library.
COUNT = """
import collections, runpy, sys
from pathlib import Path
from scanlib import native
load, calls = native.load, collections.Counter()
class Counted:
    def __init__(self, path):
        self.path, self.loaded = Path(path).name, load(path)
    def __getattr__(self, name):
        calls[self.path, name] += 1
        return getattr(self.loaded, name)
native.load = Counted
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
for name in ("scanlib_cpu_run",):
    one, other = (calls[path, name] for path in ("before.so", "after.so"))
    print(name, one > 0, one == other)
"""


def test_both_libraries_are_called_as_often(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("before.so", "after.so")]
    for path in paths:
        path.write_bytes(native.library_path().read_bytes())
    output = tmp_path / "result.json"
    # fmt: off
    command = [sys.executable, "-c", COUNT, ROOT / "bench" / "cpu" / "compare.py", *paths, "--log2", "21",
               "--libraries", "numpy", "--seconds", "0.01", "--visits", "1", "--output", output]
    # fmt: on
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "scanlib_cpu_run True True"
    cells = json.loads(output.read_text())["cells"]
    assert {cell["work"] for cell in cells} == {
        "forward",
        "forward + backward",
        "broadcast a",
        "tiny",
    }
    for cell in cells:
        assert cell["ratio"] == cell["after"]["median"] / cell["before"]["median"]
