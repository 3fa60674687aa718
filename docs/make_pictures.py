"""Draws docs/images/gradients.png: which coefficient multiplies what, forward and backward, in both directions.

Run with `python docs/make_pictures.py`. The pictures of the benchmarks come from `python bench/cpu/run.py --draw`.
"""

from __future__ import annotations

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
    target = IMAGES / "gradients.png"
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
