"""Fills the tables of README.md and docs/ from where their facts are kept; `--check` says whether they agree.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. `support` comes from tests/capabilities.py,
`cell_peers` from tests/peers.py, `environment` from `scanlib.config`, the others from the newest files under
bench/results.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
#: Peers of which the name alone says too little.
NAMES_OF_PEERS = {"numba loop": "a loop compiled by numba"}
NAMES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
Report = dict[str, Any]
Row = dict[str, Any]


def main(arguments: list[str]) -> int:
    check = arguments == ["--check"]
    if arguments and not check:
        print(
            f"Arguments {arguments} are not understood; expected none, or --check.", file=sys.stderr
        )
        return 2
    stale = []
    for page in PAGES:
        text = page.read_text()
        fresh = fill(text)
        if fresh != text:
            stale.append(page.name)
            if not check:
                page.write_text(fresh)
    if check and stale:
        print(
            f"Out of date: {', '.join(stale)}. Run `python docs/make_tables.py`.", file=sys.stderr
        )
        return 1
    return 0


def fill(text: str) -> str:
    """`text` with the content between each pair of markers made anew."""

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise KeyError(f"Marker {name!r} is not known; there are {', '.join(TABLES)}.")
        return f"<!-- begin {name} -->\n{TABLES[name]()}\n<!-- end {name} -->"

    return re.sub(
        r"<!-- begin (?P<name>\w+) -->\n.*?<!-- end (?P=name) -->", made, text, flags=re.DOTALL
    )


def support() -> str:
    """What each library gets."""
    return str(_module(ROOT / "tests" / "capabilities.py").support_table())


def cell_peers() -> str:
    """How closely published implementations of the cells agree."""
    return str(_module(ROOT / "tests" / "peers.py").table())


def environment() -> str:
    """Environment variables."""
    from scanlib.config import ENVIRONMENT

    return _table(
        ("variable", "meaning"), [(f"`{name}`", meaning) for name, meaning in ENVIRONMENT.items()]
    )


def timing() -> str:
    """Two pairs of times for the first screen, each measured side by side: beside the fastest alternative that there is
    for the first shape, and beside the general scan of a framework."""
    rows = [row for row in _report()["peers"] if "time" in row and row["work"] == "forward"]
    case = rows[0]["case"]
    others = [row for row in rows if row["case"] == case and row["candidate"] != "scanlib"]
    fastest = min(others, key=lambda row: row["ratio_to_ours"])
    general = next(row for row in others if row["candidate"] == "torch associative_scan")
    shape = " x ".join(f"{n:,}" for n in fastest["shape"])
    return (
        f"{shape} float32 values on {_machine(_report())}, forward: the fastest alternative, "
        f"{NAMES_OF_PEERS.get(fastest['candidate'], fastest['candidate'])}, {_pair(fastest)};\n"
        f"torch's own `associative_scan` {_pair(general)}."
    )


def price() -> str:
    """Ratios to the library's own element-wise arithmetic: median and worst over all shapes."""
    rows = [row for row in _report()["price"] if row["dtype"] == "float32"]
    works = {row["work"]: row["yardstick_is"] for row in rows}
    lines = []
    for work, yardstick in works.items():
        what = f"{work} (16 x 32 elements)" if work == "tiny" else work
        cells = [
            _ratios(row for row in rows if row["work"] == work and row["library"] == name)
            for name in NAMES
        ]
        lines.append(
            (
                what,
                f"`{yardstick}`".replace("`forward + backward of a * x`", "the same of `a * x`"),
                *cells,
            )
        )
    return _table(("work", "beside", *NAMES.values()), lines)


def peers() -> str:
    """How much longer each peer takes than ours, over the shapes it can run."""
    rows = [
        row
        for row in _report()["peers"]
        if row["candidate"] != "scanlib" and row["work"] == "forward"
    ]
    shapes = {row["case"] for row in rows}
    lines = []
    for name in dict.fromkeys(row["candidate"] for row in rows):
        ratios = sorted(
            row["ratio_to_ours"] for row in rows if row["candidate"] == name and "time" in row
        )
        count = f"{len(ratios)} of {len(shapes)}"
        span = f"{ratios[0]:.2g}x to {ratios[-1]:.2g}x" if ratios else "not installed"
        lines.append((name, count, span))
    return _table(("peer", "shapes it runs", "its time / ours"), lines)


def accuracy() -> str:
    """Largest errors as multiples of a serial loop's, by decay, length and layout; dtypes and directions joined."""
    paths = sorted(
        (ROOT / "bench" / "results").glob("*/accuracy/*.json"), key=lambda path: path.name
    )
    rows = json.loads(paths[-1].read_text())["accuracy"]
    layouts = dict.fromkeys(row["layout"] for row in rows)
    lines = []
    for decay, T in dict.fromkeys((row["decay"], row["T"]) for row in rows):
        of = [row for row in rows if (row["decay"], row["T"]) == (decay, T)]
        worst = (max(row["ratio"] for row in of if row["layout"] == layout) for layout in layouts)
        lines.append((decay, f"{T:,}", *(f"{ratio:.2f}" for ratio in worst)))
    lines.sort(key=lambda line: [row["decay"] for row in rows].index(line[0]))
    return _table(("`a`", "T", *layouts), lines)


def _paper(name: str) -> Callable[[], str]:
    """The table an experiment made of its newest results, and what they were measured on."""

    def table() -> str:
        reports = [
            json.loads(path.read_text())
            for path in (ROOT / "bench" / "results").glob(f"*/paper/{name}.json")
        ]
        report: Report = max(reports, key=lambda report: max(row["date"] for row in report["rows"]))
        threads = f"{report['libscanlib']['threads']} of {_machine(report)}"
        where = report["gpu"]["name"] or threads
        return f"Measured on {where}:\n\n{report['table']}"

    return table


def gpu() -> str:
    """One sentence on what a GPU gave."""
    card, rows = _gpu("price")
    spans = []
    for dtype in ("float32", "bfloat16"):
        for work in ("forward", "forward + backward"):
            mine = (row for row in _of_torch(rows) if (row["dtype"], row["work"]) == (dtype, work))
            ratios = sorted(row["ratio"] for row in mine)
            spans.append(f"{dtype} {work} {ratios[0]:.2f} to {ratios[-1]:.2f}")
    return (
        f"On an {card}, PyTorch, six shapes of 2^26 elements, times the same of its own `a + x` "
        f"(backward: `a * x`): {'; '.join(spans)}."
    )


def gpu_price() -> str:
    """For each shape the ratio to PyTorch's own arithmetic, and GB/s, as the GPU check sums it up."""
    card, rows = _gpu("price")
    copy = [row for row in rows if row["work"] == "copy"]
    return f"On an {card}. " + _summed_up("price", [*copy, *_of_torch(rows)])


def gpu_table1() -> str:
    """The paper's Table 1: times the speed of one thread a feature."""
    card, rows = _gpu("table1")
    return f"On an {card}. " + _summed_up("table1", rows)


def _bench(name: str) -> ModuleType:
    """A module of bench, which lies in the checkout: last on the path, for its folder scanlib is a part only."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"bench.{name}")


def _summed_up(stage: str, rows: list[Row]) -> str:
    return "\n".join(_bench("gpu.summary").SECTIONS[stage](rows))


def _gpu(stage: str) -> tuple[str, list[Row]]:
    """The card of the newest results of a GPU that have a stage, and their rows of it."""
    report = _bench("gpu.report")

    def header(path: Path) -> Row | None:
        return next((line["header"] for line in report.lines(path) if "header" in line), None)

    found = (ROOT / "bench" / "results").glob(f"**/{report.FILE}")
    having = [path for path in found if (run := report.read(path).get(stage)) and run.rows]
    known = {path: head for path in having if (head := header(path)) is not None}
    newest = max(known, key=lambda path: known[path]["date"])
    return known[newest]["gpu"]["name"], report.read(newest)[stage].rows


def _of_torch(rows: list[Row]) -> list[Row]:
    """On operands that are whole arrays, or repeated."""
    return [
        row
        for row in rows
        if row.get("library") == "torch"
        and row.get("layout") == "contiguous"
        and row["work"] != "tiny"
        and "ratio" in row
    ]


TABLES: dict[str, Callable[[], str]] = {
    "gpu": gpu,
    "gpu_price": gpu_price,
    "gpu_table1": gpu_table1,
    "accuracy": accuracy,
    "long_dependency": _paper("long-dependency-1024"),
    "long_dependency_8192": _paper("long-dependency-8192"),
    "table2": _paper("table2"),
    "language_model": _paper("language-model"),
    "layers": _paper("layers"),
    "support": support,
    "cell_peers": cell_peers,
    "environment": environment,
    "timing": timing,
    "price": price,
    "peers": peers,
}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


def _report() -> Report:
    path = _module(ROOT / "bench" / "core" / "plot.py").newest()
    report: Report = json.loads(path.read_text())
    return report


def _machine(report: Report) -> str:
    return f"{report['machine']['cores']} cores of an {report['machine']['processor']}"


def _pair(row: Row) -> str:
    """A peer's time and ours, in the visit that counts for their ratio."""
    seconds = row["time"]["median"]
    return f"**{_time(seconds)}**, scanlib **{_time(seconds / row['ratio_to_ours'])}**"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.02 else f"{seconds * 1e3:.1f} ms"


def _ratios(rows: Iterable[Row]) -> str:
    ratios = sorted(row["ratio"] for row in rows)
    if len(ratios) < 2:
        return f"{ratios[0]:.1f}x" if ratios else "-"
    return f"{ratios[len(ratios) // 2]:.2f}x, worst {ratios[-1]:.2f}x"


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rule = ("---",) * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
