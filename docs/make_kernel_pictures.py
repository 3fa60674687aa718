"""Draws docs/images/tiling.png and docs/images/look_back.png, the pictures of docs/kernels.md.

Run with `python docs/make_kernel_pictures.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGES = Path(__file__).resolve().parent / "images"
BLUE, RED, GREEN, GREY, PALE = "#4477aa", "#ee6677", "#228833", "#777777", "#dddddd"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    IMAGES.mkdir(parents=True, exist_ok=True)
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    draw_tile(panels[0])
    draw_walk(panels[1])
    save(figure, "tiling.png")
    figure, panel = pyplot.subplots(figsize=(12, 4.2), layout="constrained")
    draw_look_back(panel)
    save(figure, "look_back.png")


def save(figure: Any, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=130, metadata={"Software": None})
    print(f"Wrote {IMAGES / name}")


def box(
    panel: Any, x: float, y: float, width: float, height: float, colour: str, **how: Any
) -> None:
    from matplotlib.patches import Rectangle

    how = {"facecolor": "white", "linewidth": 1.0} | how
    panel.add_patch(Rectangle((x, y), width, height, edgecolor=colour, **how))


def arrow(
    panel: Any, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4}
    style["connectionstyle"] = f"arc3,rad={bend}"
    panel.annotate("", end, start, arrowprops=style, zorder=4)


def text(panel: Any, x: float, y: float, words: str, colour: str = "black", **how: Any) -> None:
    panel.text(
        x, y, words, **({"ha": "center", "va": "center", "fontsize": 10, "color": colour} | how)
    )


def draw_tile(panel: Any) -> None:
    """Four lanes by four slices of four steps: time to the right."""
    lanes, slices, run = 4, 4, 4
    for lane in range(lanes):
        for part in range(slices):
            shade = PALE if (part // 2) % 2 else "white"
            box(panel, part * run, -lane, run, -0.9, BLUE, facecolor=shade)
            for step in range(1, run):
                x = part * run + step
                panel.plot([x, x], [-lane, -lane - 0.9], color=BLUE, linewidth=0.3)
            text(
                panel,
                part * run + run / 2,
                -lane - 0.45,
                f"thread {part * lanes + lane}",
                BLUE,
                fontsize=9,
            )
        text(panel, -0.3, -lane - 0.45, f"lane {lane}", ha="right")
    for part in range(slices):
        text(panel, part * run + run / 2, 0.35, f"slice {part}", GREY)
        if part:
            arrow(panel, (part * run - 1.2, -4.15), (part * run + 1.2, -4.15), RED, 0.4)
    text(
        panel,
        8,
        -4.85,
        "(product, local) of each run, joined in order: shuffles within a warp,",
        RED,
    )
    text(
        panel,
        8,
        -5.3,
        "shared memory between warps; then every run is walked from its true carry",
        RED,
    )
    panel.set_title("a tile: lanes x slices of consecutive steps", loc="left", fontsize=12)
    finish(panel, (-2.6, 16.3), (-5.7, 0.9))


def draw_walk(panel: Any) -> None:
    """Sequences downwards, time to the right: a block keeps its lanes, or one thread keeps one."""
    for group in range(3):
        y = -1.35 * group
        for tile in range(5):
            box(
                panel,
                2.4 * tile,
                y,
                2.3,
                -0.9,
                BLUE,
                facecolor=PALE if tile == 4 else "white",
                alpha=1,
            )
            if tile < 4:
                arrow(panel, (2.4 * tile + 1.9, y - 0.45), (2.4 * tile + 2.9, y - 0.45), GREEN)
        text(panel, -0.3, y - 0.45, f"block {group}", ha="right")
    text(panel, 10.75, -0.45, "tail", GREY, fontsize=9)
    text(panel, 6, -4.35, "the carry stays in registers, the next tile is loaded meanwhile", GREEN)
    panel.set_title(
        "walk: a block takes its lanes from the first step to the last", loc="left", fontsize=12
    )
    finish(panel, (-2.2, 12.2), (-5.2, 0.9))


def draw_look_back(panel: Any) -> None:
    """Bundles of four tiles, piles of two bundles, stacks left out; one tile finds its carry."""
    bundle, tiles, current = 4, 18, 14
    for tile in range(tiles):
        done, running = tile < 9, tile == current
        colour = RED if running else BLUE
        shade = "#cfe0f1" if done else "#fbe0e4" if running else "white"
        box(panel, tile, 0, 0.9, 0.9, colour, facecolor=shade, linewidth=2 if running else 1)
        text(panel, tile + 0.45, 0.45, str(tile), colour)
    for first in range(0, tiles, bundle):
        last = min(first + bundle, tiles)
        panel.plot([first, last - 0.1], [-0.25, -0.25], color=GREY, linewidth=2)
        text(panel, (first + last) / 2, -0.55, "bundle", GREY, fontsize=9)
    for first, last in ((0, 8), (8, 16)):
        panel.plot([first, last - 0.1], [-0.9, -0.9], color=GREY, linewidth=3)
        text(panel, (first + last) / 2, -1.2, "pile", GREY, fontsize=9)
    target = (current + 0.45, 0.95)
    arrow(panel, (7.45, 0.95), target, GREEN, -0.28)
    arrow(panel, (11.45, 0.95), target, "#aa3377", -0.3)
    for tile in (12, 13):
        arrow(panel, (tile + 0.45, 0.95), target, RED, -0.45)
    text(panel, 8.3, 2.05, "last state of\nthe pile before", GREEN, fontsize=9)
    text(panel, 12.9, 2.25, "aggregate of each\nwhole bundle in between", "#aa3377", fontsize=9)
    text(panel, 16.1, 1.6, "partial of each tile\nin its own bundle", RED, fontsize=9)
    text(
        panel,
        8.9,
        -1.75,
        "tile 14 waits only for lower tickets, and joins these records in this order whoever was first",
    )
    panel.set_title("look-back: where a tile's carry comes from", loc="left", fontsize=12)
    finish(panel, (-0.3, 18.3), (-2.05, 2.9))


def finish(panel: Any, across: tuple[float, float], up: tuple[float, float]) -> None:
    panel.set_xlim(*across)
    panel.set_ylim(*up)
    panel.axis("off")


if __name__ == "__main__":
    main()
