"""Process hazards: what importing costs and pulls in, threads, forks, limits from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import decay, normal, rng_for, same_bits
from native_calls import run_forward

import scanlib

FRAMEWORKS = ("torch", "jax", "cupy", "array_api_strict", "tensorflow", "dask", "scipy", "numba")


def python(code: str, **env: str) -> str:
    """What a fresh interpreter prints; warnings are errors in it, and the checkout it is called in is not imported."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def test_import_loads_no_framework() -> None:
    """Neither `import scanlib` nor a call on NumPy arrays imports another array library."""
    code = f"""
import sys, scanlib
found = [name for name in {FRAMEWORKS} if name in sys.modules]
assert not found, f"import scanlib loaded {{found}}"
import numpy as np
scanlib.linear_recurrence(0.5, np.ones(3))
scanlib.linear_recurrence_vjp(np.ones(3), 0.5, np.ones(3))
scanlib.explain(0.5, np.ones(3))
try:
    scanlib.linear_recurrence([1.0], np.ones(3))
except TypeError:
    pass
found = [name for name in {FRAMEWORKS} if name in sys.modules]
assert not found, f"a call on NumPy arrays loaded {{found}}"
"""
    python(code)


def test_import_is_light() -> None:
    """It loads modules of Python's own and a handful of scanlib's: no adapter, cell or layer, and no dependency."""
    code = """
import sys
before = set(sys.modules)
import scanlib
print(*sorted(set(sys.modules) - before))
"""
    names = python(code).split()
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"scanlib"}
    loaded_later = ("scanlib.backends.", "scanlib.cells", "scanlib.layers")
    assert [name for name in names if name.startswith(loaded_later)] == []


def test_import_works_without_the_native_library() -> None:
    """A missing libscanlib is an error of the first call that needs it, and says what to do."""
    code = """
import scanlib, numpy as np
try:
    scanlib.linear_recurrence(0.5, np.ones(3))
except scanlib.MissingLibraryError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    message = python(code, SCANLIB_LIBRARY="/nowhere/libscanlib.so")
    assert "/nowhere/libscanlib.so" in message
    assert "Install" in message


def test_a_checkout_that_is_not_installed_in_place_says_what_to_do(tmp_path: Path) -> None:
    """After `pip install .`, a Python started in the checkout finds its folder scanlib, which lacks the adapters."""
    (tmp_path / "scanlib").symlink_to(Path(__file__).resolve().parent.parent / "scanlib")
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            "import scanlib",
        ],  # without site, so without an editable install
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("scanlib.errors.MissingLibraryError")
    for words in (str(tmp_path), "another folder", "python -P", "pip install --editable ."):
        assert words in last


def test_submodules_are_attributes_when_asked_for() -> None:
    code = f"""
import sys, scanlib
assert {{"cells", "layers", "linear_recurrence"}} <= set(dir(scanlib))
assert not [name for name in ("numpy", *{FRAMEWORKS}) if name in sys.modules]
assert scanlib.cells.GILR().name == "gilr"
assert set(dir(scanlib.layers)) & {{"jax", "flax", "torch"}}
assert not [name for name in {FRAMEWORKS} if name in sys.modules]
for package in (scanlib, scanlib.layers):
    try:
        package.layer
    except AttributeError as error:
        assert str(error) == f"module {{package.__name__!r}} has no attribute 'layer'"
if "torch" in dir(scanlib.layers):
    assert scanlib.layers.torch.GILR(2, 3).hidden_size == 3
if "jax" in dir(scanlib.layers):
    assert scanlib.layers.jax.GILR(2, 3).stack.hidden_size == 3
"""
    python(code)


def test_compiled_programs_survive_imports() -> None:
    """What scanlib looks up of imported libraries is no condition of a compiled program."""
    pytest.importorskip("torch")
    code = """
import warnings; warnings.simplefilter("default")
import torch, scanlib
from torch._dynamo.testing import CompileCounterWithBackend
layer, counter = scanlib.layers.torch.GILR(4, 5), CompileCounterWithBackend("eager")
step = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
for T, module in ((7, "wave"), (9, "colorsys"), (11, "cmd")):
    step(torch.ones(T, 6, 4))
    __import__(module)
print(counter.frame_count)
"""
    assert python(code) == "1"


def test_first_use_inside_torch_compile() -> None:
    """The adapter is found and loaded while torch.compile traces, without a graph break."""
    pytest.importorskip("torch")
    code = """
import torch, scanlib
def call(a, x, h0):
    return scanlib.linear_recurrence(a, x, h0)
compiled = torch.compile(call, fullgraph=True, backend="eager")
print(compiled(torch.full((3,), 0.5), torch.ones(3), torch.ones(())).tolist())
"""
    assert python(code, PYTHONWARNINGS="") == "[1.5, 1.75, 1.875]"


def big_case(seed: int) -> tuple[Any, Any, int]:
    """Shapes whose work is cut for several threads."""
    shape, axis = [((2100, 64), 0), ((64, 1500), 1), ((140_001,), 0), ((4, 700, 48), 1)][seed % 4]
    rng = rng_for(seed)
    return decay(rng, shape, "float32"), normal(rng, shape, "float32"), axis


def test_many_threads_at_once() -> None:
    """Sixteen Python threads on cases of all sizes: each result as if alone."""
    cases = [big_case(seed) for seed in range(8)]
    small = (np.full(5, 0.5), np.arange(5.0), 0)
    cases.append(small)

    def call(number: int) -> list[Any]:
        a, x, axis = cases[number % len(cases)]
        h = scanlib.linear_recurrence(a, x, axis=axis)
        return [h, *scanlib.linear_recurrence_vjp(x, a, h, axis=axis)[:2]]

    alone = [call(number) for number in range(len(cases))]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(20 * len(cases))))
    for number, result in enumerate(results):
        assert all(map(same_bits, result, alone[number % len(cases)]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork() -> None:
    """A child works after its parent has used all threads, also while they are busy, and so do its children."""
    code = """
import os, threading, warnings
import numpy as np, scanlib
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads is what is tested
rng = np.random.default_rng(0)
a, x = rng.uniform(-1, 1, (2100, 64)), rng.standard_normal((2100, 64))
def call():
    return scanlib.linear_recurrence(a, x, axis=0)
expected = call()
stop = threading.Event()
def busy():
    while not stop.is_set():
        call()
threads = [threading.Thread(target=busy) for _ in range(3)]
[thread.start() for thread in threads]
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            good = all(np.array_equal(call(), expected) for _ in range(3))
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if np.array_equal(call(), expected) else 1)
            good = good and os.waitpid(grandchild, 0)[1] == 0
            code = 0 if good else 1
        finally:
            os._exit(code)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
[thread.join() for thread in threads]
assert codes == [0] * len(codes), codes
assert np.array_equal(call(), expected)
print("done")
"""
    assert python(code, SCANLIB_NUM_THREADS="4") == "done"


def test_a_process_ends_while_threads_are_busy() -> None:
    """Daemon threads inside libscanlib do not keep the interpreter from leaving, nor crash it."""
    code = """
import threading, numpy as np, scanlib
x = np.ones((2100, 64))
def busy():
    while True:
        scanlib.linear_recurrence(0.5, x, axis=0)
threading.Thread(target=busy, daemon=True).start()
scanlib.linear_recurrence(0.5, x, axis=0)
print("done")
"""
    assert python(code, SCANLIB_NUM_THREADS="4") == "done"


THREADS = """
from scanlib import native
print(native.library().scanlib_cpu_threads())
"""


def test_limits_from_the_environment() -> None:
    """SCANLIB_NUM_THREADS goes before OMP_NUM_THREADS, which goes before the cores there are."""
    clean = {"SCANLIB_NUM_THREADS": "", "OMP_NUM_THREADS": ""}
    assert int(python(THREADS, **{**clean, "SCANLIB_NUM_THREADS": "3"})) == 3
    assert int(python(THREADS, **{**clean, "OMP_NUM_THREADS": "5"})) == 5
    assert int(python(THREADS, SCANLIB_NUM_THREADS="2", OMP_NUM_THREADS="5")) == 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for nonsense in ("", "0", "-4", "many", "99999999999999999999"):
        assert (
            1 <= int(python(THREADS, **{**clean, "SCANLIB_NUM_THREADS": nonsense})) <= (cores or 1)
        )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_respected() -> None:
    """A process bound to one core uses one thread."""
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])" + THREADS
    assert int(python(code, SCANLIB_NUM_THREADS="", OMP_NUM_THREADS="")) == 1


def test_same_bits_under_any_limit() -> None:
    """What the environment allows changes the time, never the result."""
    code = """
import hashlib, numpy as np, scanlib
rng, digest = np.random.default_rng(0), hashlib.sha256()
for shape, axis in (((2100, 64), 0), ((64, 1500), 1), ((140_001,), 0)):
    a, x = rng.uniform(-1, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    h = scanlib.linear_recurrence(a, x, axis=axis)
    c = np.full((1,) * len(shape), 0.9, np.float32)
    for result in (h, *scanlib.linear_recurrence_vjp(x, a, h, axis=axis)[:2],
                   *scanlib.linear_recurrence_vjp(x, c, h, axis=axis)[:2]):
        digest.update(result.tobytes())
print(digest.hexdigest())
"""
    assert len({python(code, SCANLIB_NUM_THREADS=count) for count in ("1", "2", "7")}) == 1


def test_no_memory_is_kept() -> None:
    """Hundreds of large calls, and of calls of ever new shapes, leave the process no larger."""
    code = """
import resource, numpy as np, scanlib
def size():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
a = x = np.full((512, 1024), 0.5, np.float32)
def work(start):
    for T in range(start, start + 150):
        h = scanlib.linear_recurrence(a[:T], x[:T], axis=0)
        scanlib.linear_recurrence_vjp(h, a[:T], h, axis=0)
work(100)
before = size()
for _ in range(3):
    work(300)
print(size() - before)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc here")
    assert int(python(code)) < 16 * 2**20


def test_more_threads_than_work() -> None:
    """Far more threads than cores or pieces of work: the same bits, no error."""
    x = normal(rng_for("threads"), (300, 8), "float64")
    a = decay(rng_for("coefficients"), (300, 8), "float64")
    assert same_bits(run_forward(a, x, 0, threads=500)[0], run_forward(a, x, 0, threads=1)[0])
