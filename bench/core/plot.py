"""The two pictures of the README, drawn from a result file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
COLOURS = {"numpy": "#4477aa", "torch": "#ee6677", "jax": "#228833"}
MARKERS = {"numpy": "o", "torch": "s", "jax": "^"}
NAMES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
WORKS = ("forward", "forward + backward", "broadcast a")


def newest() -> Path:
    """The result file of `make bench` with the latest date inside, full runs before quick ones."""
    reports = {path: json.loads(path.read_text()) for path in RESULTS.glob("*/*.json")}
    ages = {
        path: (not report["settings"]["quick"], report["date"])
        for path, report in reports.items()
        if isinstance(report, dict) and "quick" in report.get("settings", {})
    }
    if not ages:
        raise FileNotFoundError(f"No results in {RESULTS}. Run `make bench` first.")
    return max(ages, key=ages.__getitem__)


def draw(path: Path, folder: Path = IMAGES) -> list[Path]:
    """Draw both pictures of one result file; returns what was written."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    report = json.loads(path.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, picture in (("price-of-an-add", _price), ("peers", _peers)):
        figure = picture(report)
        if figure is not None:
            target = folder / f"{name}.png"
            figure.savefig(target, dpi=130, metadata={"Software": None})
            written.append(target)
    return written


def _price(report: dict[str, Any]) -> Any:
    from matplotlib import pyplot

    rows = [row for row in report["price"] if row["dtype"] == "float32" and row["work"] in WORKS]
    if not rows:
        return None
    cases = {row["case"]: _shape(row) for row in rows}
    places = {case: place for place, case in enumerate(cases)}
    figure, panels = pyplot.subplots(
        1, len(WORKS), figsize=(12, 4.6), sharey=True, layout="constrained"
    )
    for panel, work in zip(panels, WORKS, strict=True):
        for offset, library in zip((-0.18, 0, 0.18), COLOURS, strict=True):
            mine = [row for row in rows if row["work"] == work and row["library"] == library]
            heights = [places[row["case"]] + offset for row in mine]
            ratios = [row["ratio"] for row in mine]
            style = {"color": COLOURS[library], "marker": MARKERS[library], "label": NAMES[library]}
            panel.plot(ratios, heights, linestyle="none", markersize=6, **style)
        panel.axvline(1.0, color="#333333", linewidth=1)
        panel.set_xlim(0, max(1.4, 1.1 * max(row["ratio"] for row in rows)))
        panel.set_title(f"{work}\n", loc="left", fontweight="bold")
        yardstick = next(row["yardstick_is"] for row in rows if row["work"] == work)
        panel.set_xlabel(f"time / time of the library's own\n{yardstick}")
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(cases)), cases.values())
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_caption(report), x=0.01, ha="left", fontsize=8.5, color="#555555")
    return figure


def _peers(report: dict[str, Any]) -> Any:
    from matplotlib import pyplot

    rows = [
        row
        for row in report["peers"]
        if "time" in row and row["work"] == "forward" and not row["constant_a"]
    ]
    if not rows:
        return None
    cases = {row["case"]: _shape(row) for row in rows}
    figure, grid = pyplot.subplots(
        2, 3, figsize=(12, 5.6), sharex=True, layout="constrained", squeeze=False
    )
    labels = list(dict.fromkeys(_label(row) for row in rows))
    labels.sort(key=lambda label: not label.startswith("scanlib"))
    everything = [row["gigabytes_per_second"] for row in rows]
    left = min(everything) / 2
    for panel, (case, shape) in zip(grid.flat, cases.items(), strict=False):
        speeds = {_label(row): row["gigabytes_per_second"] for row in rows if row["case"] == case}
        for height, label in enumerate(labels):
            colour = "#4477aa" if label.startswith("scanlib") else "#bbbbbb"
            panel.barh(height, speeds.get(label, 0), color=colour, height=0.7)
            text = f" {speeds[label]:.3g}" if label in speeds else " cannot run this shape"
            panel.text(speeds.get(label, left), height, text, va="center", fontsize=8)
        panel.set_xscale("log")
        panel.set_title(shape, loc="left", fontsize=10)
        panel.set_yticks(range(len(labels)), labels, fontsize=8.5)
        panel.invert_yaxis()
        panel.set_xlim(left, 5 * max(everything))
    for panel in grid[-1]:
        panel.set_xlabel("GB/s, counting 3 words an element (log scale)")
    for panel in grid[:, 1:].flat:
        panel.set_yticklabels([])
    figure.suptitle(_caption(report), x=0.01, ha="left", fontsize=8.5, color="#555555")
    return figure


def _label(row: dict[str, Any]) -> str:
    own = row["candidate"] == "scanlib"
    return f"scanlib ({NAMES[row['library']]})" if own else str(row["candidate"])


def _shape(row: dict[str, Any]) -> str:
    """The shape and axis as a picture shows them: large powers of two as powers."""
    sizes = [
        f"2^{n.bit_length() - 1}" if n > 4096 and n & (n - 1) == 0 else str(n) for n in row["shape"]
    ]
    inside = ", ".join(sizes)
    notes = ["halves"] * (row.get("layout") == "halves")
    notes += ["reverse"] * row.get("reverse", False)
    return ", ".join([f"({inside}) axis {row['axis']}", *notes])


def _caption(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    return (
        f"2^{settings['log2_elements']} float32 elements, medians, allocation included. {machine['processor']}, "
        f"{machine['cores']} cores; {report['date'][:10]}, commit {report['commit']}"
    )
