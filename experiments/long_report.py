"""What `long_dependency.py` shows of its runs: a table beside the paper's, and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path

from experiments import experiment

TITLES = {"gilr_lstm": "GILR-LSTM", "lstm": "LSTM"}
#: (T, model) -> iterations in thousands and hours on a K80, as the paper prints them
PAPER = {
    (1024, "lstm"): ("1.0 ± 0.4", "0.28 ± 0.08"),
    (1024, "gilr_lstm"): ("0.55 ± 0.04", "0.031 ± 0.002"),
    (8192, "lstm"): ("0.44 ± 0.05", "0.58 ± 0.06"),
    (8192, "gilr_lstm"): ("0.56 ± 0.16", "0.10 ± 0.03"),
    (1048576, "lstm"): ("never", "days"),
    (1048576, "gilr_lstm"): ("14 ± 3", "9.7 ± 1.7"),
}


def table(rows: list[experiment.Row]) -> str:
    """Markdown: a line for each library and model, beside the paper's numbers."""
    lines = [
        "| library | model | parameters | converged | iterations | seconds | ms each | held-out | paper's, on a K80 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[experiment.Row]] = {}
    for row in rows:
        groups.setdefault((row["key"]["library"], row["key"]["model"]), []).append(row)
    for (library, model), group in groups.items():
        good = [row for row in group if row["converged"]]
        each = statistics.median(row["seconds"] / row["iteration"] for row in group)
        held = [row["held_out"] for row in good]
        paper = PAPER.get((group[0]["key"]["length"], model))
        limit = f"none in {max(row['seconds'] for row in group):.0f} s"
        cells = (
            library,
            TITLES[model],
            f"{group[0]['parameters']:,}",
            f"{len(good)} of {len(group)}",
            _spread([row["iteration"] for row in good]) or "-",
            _spread([row["seconds"] for row in good]) or limit,
            f"{each * 1e3:.0f}",
            f"{min(held):.1%} or more" if held else "-",
            "-" if paper is None else f"{paper[0]} thousand, {paper[1]} h",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.0f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.0f}{deviation}"


def plot(rows: list[experiment.Row], folder: Path) -> Path | None:
    """Iterations and seconds of every run, those that did not converge drawn hollow."""
    pyplot = experiment.pyplot()
    if pyplot is None or not rows:
        return None
    groups = list(dict.fromkeys((row["key"]["library"], row["key"]["model"]) for row in rows))
    figure, panels = pyplot.subplots(
        1, 2, figsize=(9, 1.2 + 0.5 * len(groups)), sharey=True, layout="constrained"
    )
    for panel, quantity in zip(panels, ("iteration", "seconds"), strict=True):
        for height, group in enumerate(groups):
            for row in rows:
                if (row["key"]["library"], row["key"]["model"]) == group:
                    colour = "#4477aa" if group[1] == "gilr_lstm" else "#bbbbbb"
                    face = colour if row["converged"] else "none"
                    style = {"markersize": 8, "markerfacecolor": face, "markeredgecolor": colour}
                    panel.plot(row[quantity], height, "o", **style)
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(lambda value, place: "")
        panel.set_xlabel({"iteration": "iterations", "seconds": "seconds"}[quantity])
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(groups)), [f"{TITLES[m]}, {library}" for library, m in groups])
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    length = rows[0]["key"]["length"]
    title = f"T = {length:,}: one dot a seed, hollow where the time limit came first"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    target = folder / f"long-dependency-{length}.png"
    figure.savefig(target, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return target
