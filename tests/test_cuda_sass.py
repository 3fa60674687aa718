"""The machine code of the benchmark's programs keeps its vector loads, its occupancy and its predicted speed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from typing import Any

import cuda_sass
import gpu_model
import pytest
import sass
from native_calls import dense_problem
from sass_cases import toy

from scanlib import compiler, gpu

MISSING = compiler.unavailable() or sass.unavailable()
needs_code = pytest.mark.skipif(
    bool(MISSING), reason=MISSING or "the compiler and nvdisasm are here"
)

# ---- the table


@needs_code
@pytest.mark.parametrize(
    "architecture",
    [90, *(pytest.param(sm, marks=pytest.mark.slow) for sm in gpu_model.MACHINES if sm != 90)],
)
def test_the_table_is_current(architecture: int) -> None:
    kept = json.loads(cuda_sass.RECORD.read_text())["programs"]
    rows = [asdict(row) for row in cuda_sass.table([architecture])]
    found = cuda_sass.differences(rows, kept)
    again = "python tests/cuda_sass.py --record bench/results/cuda-sass.json writes it anew"
    assert not found, "\n".join([*found, again])
    assert len(rows) == sum(row["sm"] == architecture for row in kept)


#: dtype -> the words of a record and of a state, and the bits of a state's word; a record's have 128
MAIL = {
    "float32": (1, 1, 64),
    "float64": (2, 1, 128),
    "complex64": (2, 1, 128),
    "complex128": (4, 2, 128),
}


@needs_code
@pytest.mark.parametrize("dtype", MAIL)
@pytest.mark.parametrize("layout", ["rows", "one row", "columns"])
def test_mail_is_read_by_whole_words(layout: str, dtype: str) -> None:
    """What is read of a word is made use of: else parts are loaded one by one, a tag perhaps before what it is of."""
    shape, axis = {
        "rows": ((16, 40_000), 1),
        "one row": ((1 << 17,), 0),
        "columns": ((40_000, 16), 0),
    }[layout]
    problem = dense_problem(shape, axis, ("a", "x", "h"), dtype)
    assert f"look-back over {'columns' if layout == 'columns' else 'rows'}" in gpu.describe(problem)
    code = sass.listing(compiler.program(gpu.programs(problem)[0], 90))
    widths = Counter(int(w or 32) for w in re.findall(r"LD\.E(?:\.(\d+))?\.STRONG\.GPU", code))
    records, states, bits = MAIL[dtype]
    if layout == "columns":
        assert set(widths) == {128, bits}
    else:  # three looks at partials, two at a carry, two at what is handed on; last states are read when they are there
        tiles = 2 if layout == "one row" else 1  # of a carrier's thread
        expected = Counter({128: 3 * records * tiles}) + Counter({bits: 4 * states})
        assert all(widths[width] >= count for width, count in expected.items()), widths


def kept_row(**changes: Any) -> dict[str, Any]:
    return json.loads(cuda_sass.RECORD.read_text())["programs"][0] | changes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": 1}, "blocks is 1"),
        ({"loads": {"8": 1}}, "loads is {'8': 1}"),
        ({"in_flight": 8192}, "in_flight is 8192"),
        ({"instructions": 1000.0}, "1000.0 instructions an element"),
        ({"share": 0.0}, "share 0.0 by"),
        ({"sm": 70}, "not in the table"),
    ],
)
def test_what_is_lost_is_said(change: dict[str, Any], said: str) -> None:
    before = kept_row()
    assert cuda_sass.differences([before], [before]) == []
    (found,) = cuda_sass.differences([before | change], [before])
    assert said in found


def test_a_share_above_the_goal_stays_above_it() -> None:
    before, small = kept_row(share=0.86), kept_row(share=0.70)
    assert cuda_sass.differences([before | {"share": 0.84}], [before])
    assert not cuda_sass.differences([small | {"share": 0.68}], [small])
    assert cuda_sass.differences([small | {"share": 0.66}], [small])


# ---- what is read is there to be read


SOURCE = """
struct alignas(4 * WORDS) Word { float of[WORDS]; };
extern "C" __global__ void __launch_bounds__(128) scanlib_kernel(const Word *a, const Word *x, Word *h, int tiles) {
  __shared__ float all[128];
  for (int tile = 0; tile < tiles; ++tile) {
    Word from[2][4 / WORDS], to[4 / WORDS];
    for (int i = 0; i < 4 / WORDS; ++i) {
      from[0][i] = a[(tile * 4 / WORDS + i) * 128 + threadIdx.x];
      from[1][i] = x[(tile * 4 / WORDS + i) * 128 + threadIdx.x];
    }
    for (int i = 0; i < 4; ++i)
      to[i / WORDS].of[i % WORDS] = from[0][i / WORDS].of[i % WORDS] + from[1][i / WORDS].of[i % WORDS];
    all[threadIdx.x] = to[0].of[0];
    __syncthreads();
    to[0].of[0] += all[127 - threadIdx.x];
    for (int i = 0; i < 4 / WORDS; ++i) h[(tile * 4 / WORDS + i) * 128 + threadIdx.x] = to[i];
    __syncthreads();
  }
}"""


@needs_code
@pytest.mark.parametrize("architecture", gpu_model.MACHINES)
def test_a_lost_vector_load_would_be_seen(
    architecture: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for words in (4, 1):
        source = f"#define WORDS {words}\n{SOURCE}"
        monkeypatch.setattr(compiler, "source", lambda source=source: {compiler.ENTRY: source})
        monkeypatch.setattr(cuda_sass, "_read", {})
        rows.append(cuda_sass.row_of(toy(), architecture))
    wide, narrow = rows
    assert (wide.loads, wide.stores) == ({"16": 2}, {"16": 1})
    assert (narrow.loads, narrow.stores) == ({"4": 8}, {"4": 4})
    assert wide.instructions < narrow.instructions
    assert wide.in_flight == narrow.in_flight == 16 * 128 * 2 * 16
    assert wide.cycles > gpu_model.MEMORY + 2 * gpu_model.BARRIER


@needs_code
def test_registers_and_shared_memory_are_those_of_the_compilers_report() -> None:
    import cuda_gate

    definitions = cuda_gate.smallest()
    for architecture, machine in gpu_model.MACHINES.items():
        use = cuda_gate.use(definitions, architecture)
        cubin = compiler.program(definitions, architecture)
        assert sass.registers(cubin) == use.registers
        assert sass.shared(cubin) + machine.kept == use.shared + 1024
