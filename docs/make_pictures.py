"""Draws docs/images/gradients.png, which coefficient multiplies what, and segments.png, where sequences start.

Run with `python docs/make_pictures.py`. The pictures of the benchmarks come from `python bench/cpu/run.py --draw`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).resolve().parent / "images"
STATE, GRADIENT, INPUT = "#4477aa", "#ee6677", "#777777"
STEPS = 3
LEVELS = {"x": 3.1, "h": 2.1, "g": 0.7, "out": -0.5}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    for panel, reverse in zip(panels, (False, True), strict=True):
        draw(panel, reverse)
    save(figure, "gradients.png")
    figure, panels = pyplot.subplots(2, 1, figsize=(11, 4.6), layout="constrained")
    draw_reset(panels[0])
    draw_offsets(panels[1])
    save(figure, "segments.png")


def save(figure: Any, name: str) -> None:
    target = IMAGES / name
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130, metadata={"Software": None})
    print(f"Wrote {target}")


def draw(panel: Any, reverse: bool) -> None:
    """One direction: states in the upper half, gradients in the lower, time always from left to right."""
    order = range(STEPS - 1, -1, -1) if reverse else range(STEPS)
    start = STEPS if reverse else -1
    before = start
    node(
        panel,
        start,
        LEVELS["h"],
        "h0\n" + (f"($h_{{{STEPS}}}$)" if reverse else "($h_{-1}$)"),
        STATE,
    )
    for t in order:
        node(panel, t, LEVELS["h"], f"$h_{t}$", STATE)
        node(panel, t, LEVELS["x"], f"$x_{t}$", INPUT)
        arrow(panel, (t, LEVELS["x"]), (t, LEVELS["h"]), "", INPUT)
        arrow(panel, (before, LEVELS["h"]), (t, LEVELS["h"]), f"$a_{t}$", STATE)
        node(panel, t, LEVELS["g"], f"$g_{t}$", GRADIENT)
        arrow(panel, (t, LEVELS["h"]), (t, LEVELS["g"]), rf"$\partial h_{t}$", INPUT, side=True)
        neighbour = rf"\bar h_{before}" if before != start else r"\overline{h0}"
        text = rf"$\partial x_{t} = g_{t}$" + "\n" + rf"$\partial a_{t} = g_{t}\,{neighbour}$"
        panel.text(t, LEVELS["out"], text, ha="center", va="center", fontsize=11)
        if before != start:
            arrow(panel, (t, LEVELS["g"]), (before, LEVELS["g"]), rf"$\bar a_{t}$", GRADIENT)
        before = t
    first = order[0]
    node(panel, start, LEVELS["g"], r"$\partial$h0", GRADIENT)
    arrow(panel, (first, LEVELS["g"]), (start, LEVELS["g"]), rf"$\bar a_{first}$", GRADIENT)
    sign = "+" if reverse else "-"
    back = "-" if reverse else "+"
    title = (
        rf"reverse={reverse}:  $h_t = a_t h_{{t{sign}1}} + x_t$,   "
        rf"$g_t = \partial h_t + \bar a_{{t{back}1}}\, g_{{t{back}1}}$"
    )
    panel.set_title(title, loc="left", fontsize=12)
    panel.set_xlim(-1.6, STEPS + 0.6)
    panel.set_ylim(-1.0, 3.6)
    panel.axis("off")


SHADES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee")
CELLS = 16


def row_of_steps(panel: Any, y: float, starts: list[int], text: str, cells: int = CELLS) -> None:
    """Steps of one row of a batch, in a shade for each sequence, with a bar where one starts."""
    from matplotlib.patches import Rectangle

    for step in range(cells):
        shade = SHADES[sum(start <= step for start in starts) % len(SHADES)]
        panel.add_patch(
            Rectangle((step, y), 0.94, 0.7, facecolor=shade, alpha=0.35, edgecolor="none")
        )
    for start in starts:
        panel.plot([start - 0.03] * 2, [y - 0.08, y + 0.78], color="black", linewidth=2.2)
    panel.text(-0.2, y + 0.35, text, ha="right", va="center", fontsize=11)


def draw_reset(panel: Any) -> None:
    """A batch whose rows have starts of their own."""
    for row, starts in enumerate(([5, 11], [3], [8, 9, 14])):
        row_of_steps(panel, 2 - row, starts, f"row {row}")
    panel.set_title(
        "reset (batch, T, 1), True at the bars: $h_t = x_t$ there, whatever came before",
        loc="left",
        fontsize=12,
    )
    frame(panel, 3.0)


def draw_offsets(panel: Any) -> None:
    """Sequences one after the other, each with its own states."""
    offsets = [0, 4, 4, 11, 16]
    row_of_steps(panel, 1.0, sorted(set(offsets[:-1])), "time")
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if start == stop:
            panel.text(start, 2.25, f"h0[{i}] = final[{i}]", ha="center", fontsize=10)
            continue
        arrow(panel, (start + 0.45, 2.5), (start + 0.45, 1.5), f"h0[{i}]", STATE, side=True)
        arrow(panel, (stop - 0.5, 1.2), (stop - 0.5, 0.2), f"final[{i}]", GRADIENT, side=True)
    panel.set_title(
        f"offsets = {offsets}: sequences one after the other, the second of no steps",
        loc="left",
        fontsize=12,
    )
    frame(panel, 2.8)


def frame(panel: Any, top: float) -> None:
    panel.set_xlim(-1.6, CELLS + 0.8)
    panel.set_ylim(-0.2, top)
    panel.axis("off")


def node(panel: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {
        "boxstyle": "round,pad=0.35",
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 1.4,
    }
    panel.text(x, y, text, ha="center", va="center", fontsize=11, bbox=box, zorder=3)


def arrow(
    panel: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    colour: str,
    side: bool = False,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 20, "shrinkB": 20, "linewidth": 1.3}
    panel.annotate("", end, start, arrowprops=style, zorder=2)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    place = (x + 0.07, y) if side else (x, y + 0.12)
    panel.text(
        *place,
        text,
        ha="left" if side else "center",
        va="center" if side else "bottom",
        color=colour,
    )


if __name__ == "__main__":
    main()
