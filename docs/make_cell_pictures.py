"""Draw the pictures of the cells' pages into docs/images: `python docs/make_cell_pictures.py` (needs matplotlib)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

import scanlib
from scanlib import cells

IMAGES = Path(__file__).resolve().parent / "images"
BLUE, RED, GREEN, GREY = "#4477aa", "#ee6677", "#228833", "#777777"
LABEL = {"fontsize": 9}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pictures = {
        "linear-surrogate": (surrogate, 2, (11, 3.6)),
        "forget-bias": (forget_bias, 1, (7, 3.4)),
        "decays": (decays, 1, (7, 3.2)),
        "log-space": (log_space, 1, (7, 3.4)),
        "wkv": (wkv, 1, (7, 3.4)),
        "eigenvalues": (eigenvalues, 2, (8.5, 4)),
    }
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, (draw, panels, size) in pictures.items():
        figure, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained")
        draw(axes)
        target = IMAGES / f"{name}.png"
        figure.savefig(target, dpi=110, metadata={"Software": None})
        print(f"Wrote {target}")


# ---- the idea


def surrogate(panels: Any) -> None:
    serial(panels[0])
    parallel(panels[1])
    for panel in panels:
        panel.set_xlim(-0.7, 3.6)
        panel.axis("off")


def serial(panel: Any) -> None:
    panel.set_title("serial: every step waits for the one before", loc="left", fontsize=11)
    for t in range(4):
        node(panel, t, 0, f"$x_{t}$", GREY)
        node(panel, t, 1, "$f$", RED)
        node(panel, t, 2, f"$s_{t}$", RED)
        arrow(panel, (t, 0), (t, 1), GREY)
        arrow(panel, (t, 1), (t, 2), RED)
        if t:
            arrow(panel, (t - 1, 2), (t, 1), RED)
    panel.set_ylim(-0.4, 3.4)


def parallel(panel: Any) -> None:
    title = "linear surrogate: one scan, then all steps at once"
    panel.set_title(title, loc="left", fontsize=11)
    for t in range(4):
        node(panel, t, 0, f"$x_{t}$", GREY)
        node(panel, t, 1, rf"$\tilde s_{t}$", BLUE)
        node(panel, t, 2, "$f$", GREEN)
        node(panel, t, 3, f"$s_{t}$", GREEN)
        arrow(panel, (t, 0), (t, 1), GREY)
        arrow(panel, (t, 2), (t, 3), GREEN)
        arrow(panel, (t, 0), (t, 2), GREY, bend=0.35)
        if t:
            arrow(panel, (t - 1, 1), (t, 1), BLUE)
            arrow(panel, (t - 1, 1), (t, 2), BLUE)
    panel.text(3.3, 1, "linear", color=BLUE, va="center", **LABEL)
    panel.set_ylim(-0.4, 3.4)


def node(panel: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour}
    panel.text(x, y, text, ha="center", va="center", bbox=box, zorder=3)


def arrow(panel: Any, start: Any, end: Any, colour: str, bend: float = 0) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": colour,
        "shrinkA": 13,
        "shrinkB": 13,
        "connectionstyle": f"arc3,rad={bend}",
    }
    panel.annotate("", end, start, arrowprops=style, zorder=2)


# ---- what a forget bias leaves


def forget_bias(panel: Any) -> None:
    T = np.logspace(0, 6.5, 300)
    curves = [(b, rf"$b = {b}$") for b in (0, 5, 8)]
    for colour, (bias, label) in zip((GREY, RED, BLUE), curves, strict=True):
        panel.semilogx(T, (1 + math.exp(-bias)) ** -T, color=colour, label=label)
    rule = np.log(T) + 1
    panel.semilogx(T, (1 + np.exp(-rule)) ** -T, color=GREEN, label=r"$b = \ln T + 1$")
    panel.set_xlabel("steps T")
    panel.set_ylabel(r"$\sigma(b)^T$: left of the first step")
    panel.legend(frameon=False)


# ---- decays of RG-LRU


def decays(panel: Any) -> None:
    n, rng = 20_000, np.random.default_rng(0)
    edges = np.linspace(0.4, 1, 90)
    for option, colour in (("code", BLUE), ("paper", RED)):
        params = cells.RGLRU(heads=n, init_decay=option).init(rng, n, n)
        rate = 8 * np.log1p(np.exp(params["decay"]))
        label = f'init_decay="{option}"'
        panel.hist(np.exp(-rate), edges, histtype="step", color=colour, label=f"{label}, r = 1")
        half = {"histtype": "step", "color": colour, "linestyle": ":"}
        panel.hist(np.exp(-rate / 2), edges, label=f"{label}, r = 1/2", **half)
    panel.set_yscale("log")
    panel.set_xlabel("decay a")
    panel.set_ylabel("channels")
    panel.legend(frameon=False, **LABEL)


# ---- scans in the logarithm


def log_space(panel: Any) -> None:
    """The largest relative error so far of minGRU's state, decays sigmoid(N(0, 1)) and positive inputs."""
    T, n = 100_000, 8
    rng = np.random.default_rng(0)
    gate = rng.standard_normal((T, n)).astype(np.float32)
    candidate = (0.1 + rng.uniform(size=(T, n))).astype(np.float32)
    log_keep, log_in = -np.logaddexp(0, gate), -np.logaddexp(0, -gate)
    exact = scanlib.linear_recurrence(
        np.exp(log_keep.astype(float)), np.exp(log_in.astype(float)) * candidate, axis=0
    )
    plain = scanlib.linear_recurrence(np.exp(log_keep), np.exp(log_in) * candidate, axis=0)
    total = np.cumsum(log_keep, axis=0, dtype=np.float32)
    inner = np.logaddexp.accumulate(log_in + np.log(candidate) - total, axis=0)
    steps = np.unique(np.logspace(0.5, 5, 60).astype(int))
    for values, colour, label in (
        (np.exp(total + inner), RED, "scan in the logarithm, float32"),
        (plain, BLUE, "linear_recurrence, float32"),
    ):
        worst = np.maximum.accumulate(np.max(np.abs(values - exact) / exact, axis=1))
        panel.loglog(steps, worst[steps - 1], color=colour, label=label)
    panel.set_xlabel("step")
    panel.set_ylabel("largest relative error so far")
    panel.legend(frameon=False)


# ---- WKV


def wkv(panel: Any) -> None:
    """Against float64, where float64's own operator is good at these sizes; NaN is drawn at the top."""
    T, C, rng = 512, 16, np.random.default_rng(0)
    scales = np.logspace(0, 2.5, 26)
    k, v = rng.standard_normal((T, C)), rng.standard_normal((T, C))
    w, u = -np.exp(rng.uniform(-5, 1, C)), rng.standard_normal(C)
    names = ("one shift for all steps", "authors' order of operations", "cells.wkv")
    errors: dict[str, list[float]] = {name: [] for name in names}
    for scale in scales:
        given = [value.astype(np.float32) for value in (w, u, scale * k, v)]
        exact, _ = cells.wkv(*(value.astype(float) for value in given))
        with np.errstate(all="ignore"):
            shifted = naive(*given, given[2].max(axis=0))
        found = (shifted, serial_wkv(*given), cells.wkv(*given)[0])
        for name, values in zip(names, found, strict=True):
            errors[name].append(float(np.max(np.abs(values - exact))))
    for (name, values), colour in zip(errors.items(), (RED, GREY, BLUE), strict=True):
        good = [v if np.isfinite(v) else np.nan for v in values]
        panel.loglog(scales, good, ".-", color=colour, label=f"{name}, float32")
        broken = [s for s, v in zip(scales, values, strict=True) if not np.isfinite(v)]
        panel.plot(broken, [3] * len(broken), "x", color=colour)
    panel.text(scales[0], 3, "x: NaN or infinity", va="center", **LABEL)
    panel.set_xlabel("deviation of the exponents k")
    panel.set_ylabel("largest error of y")
    panel.legend(frameon=False, loc="center left", **LABEL)


def naive(w: Any, u: Any, k: Any, v: Any, shift: Any) -> Any:
    weight = np.exp(k - shift)
    first = np.zeros((1, k.shape[1]), np.float32)
    num, den = (
        np.concatenate([first, scanlib.linear_recurrence(np.exp(w), b, axis=0)[:-1]])
        for b in (weight * v, weight)
    )
    return (num + np.exp(u) * weight * v) / (den + np.exp(u) * weight)


def serial_wkv(w: Any, u: Any, k: Any, v: Any) -> Any:
    """The loop with the operations in the order in which the authors' kernel has them."""
    num, den, top = np.zeros_like(w), np.zeros_like(w), np.full_like(w, -1e38)
    y = np.empty_like(v)
    for t in range(len(k)):
        q = np.maximum(top, u + k[t])
        past, present = np.exp(top - q), np.exp(u + k[t] - q)
        y[t] = (past * num + present * v[t]) / (past * den + present)
        q = np.maximum(w + top, k[t])
        past, present = np.exp(w + top - q), np.exp(k[t] - q)
        num, den, top = past * num + present * v[t], past * den + present, q
    return y


# ---- eigenvalues


def eigenvalues(panels: Any) -> None:
    rng, n = np.random.default_rng(0), 256
    lru = cells.LRU(r_min=0.5, r_max=0.99).init(rng, 1, n)
    s5 = cells.S5().init(rng, 1, n)
    step = np.exp(s5["log_step"])
    found = {
        "LRU(r_min=0.5, r_max=0.99)": np.exp(-np.exp(lru["nu"]) + 1j * np.exp(lru["theta"])),
        "S5()": np.exp((s5["eigenvalues"][0] + 1j * s5["eigenvalues"][1]) * step),
    }
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    for panel, (name, values) in zip(panels, found.items(), strict=True):
        panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.8)
        panel.plot(values.real, values.imag, ".", color=BLUE, markersize=4)
        panel.set_aspect("equal")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("real part")
    panels[0].set_ylabel("imaginary part")


if __name__ == "__main__":
    main()
