"""Simple exponential smoothing, fitted by gradient descent through the recurrence.

The level follows `l[t] = (1 - alpha) * l[t-1] + alpha * y[t]`: the linear recurrence with `a = 1 - alpha` and
`x = alpha * y`. The forecast of y[t] is l[t-1], and `alpha` and the first level minimise the sum of squared forecast
errors, as in statsmodels' SimpleExpSmoothing with `initialization_method="estimated"`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scanlib

Array = np.ndarray[Any, np.dtype[Any]]
RATE = 0.05


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model: the smoothing constant, the level before the first observation, and what they cost."""

    alpha: float
    level: float
    loss: float  # sum of squared one-step errors


def fit_all(steps: int, folder: Path) -> None:
    """Print the table of part 2 and save its plot."""
    print("\n2. Simple exponential smoothing, fitted by gradient descent through the recurrence\n")
    if importlib.util.find_spec("statsmodels") is None:
        print(
            "   skipped: the series come with statsmodels, which is not installed (pip install statsmodels)"
        )
        return
    methods = {
        title: fit
        for title, module, fit in (
            ("scanlib + PyTorch", "torch", fit_torch),
            ("scanlib + JAX", "jax", fit_jax),
        )
        if importlib.util.find_spec(module)
    }
    if not methods:
        print("   skipped: neither PyTorch nor JAX is installed")
        return
    fits = {}
    for name, y in series().items():
        fits[name] = {"statsmodels": fit_statsmodels(y)}
        for title, fit in methods.items():
            fits[name][title] = descend(fit(y), steps, f"   {name}, {title}")
    print(
        f"\n   {'series':22} {'fitted by':18} {'alpha':>8} {'first level':>12} {'squared error':>14} {'beside it':>10}"
    )
    for name, found in fits.items():
        own = found["statsmodels"].loss
        for title, fit in found.items():
            numbers = (
                f"{fit.alpha:8.4f} {fit.level:12.2f} {fit.loss:14.6g} {fit.loss / own - 1:+10.1e}"
            )
            print(f"   {name:22} {title:18} {numbers}")
    print("\n   beside it: the squared error as a fraction above or below statsmodels' fit.")
    print(
        "   Where the best alpha is 1, gradient descent through a sigmoid comes close and never arrives."
    )
    print(f"\n   Plot: {plot(fits, folder)}")


def series() -> dict[str, Array]:
    """Three real series from statsmodels' package; gaps in CO2 are filled linearly."""
    from statsmodels import datasets

    nile = datasets.nile.load_pandas().data["volume"]
    sunspots = datasets.sunspots.load_pandas().data["SUNACTIVITY"]
    co2 = datasets.co2.load_pandas().data["co2"].interpolate()
    named = {"Nile, yearly flow": nile, "Sunspots, yearly": sunspots, "CO2, weekly": co2}
    return {name: np.asarray(values, np.float64) for name, values in named.items()}


def fit_statsmodels(y: Array) -> Fit:
    """statsmodels' own fit: a bounded quasi-Newton method over a serial filter."""
    from statsmodels.tsa.holtwinters import SimpleExpSmoothing

    with warnings.catch_warnings():  # it warns where alpha lies on its bound
        warnings.simplefilter("ignore")
        found = SimpleExpSmoothing(y, initialization_method="estimated").fit()
    return Fit(found.params["smoothing_level"], found.params["initial_level"], found.sse)


def sum_of_squares(y: Any, logit: Any, level: Any, sigmoid: Callable[[Any], Any]) -> Any:
    """The loss: the same lines for every library."""
    alpha = sigmoid(logit)
    levels = scanlib.linear_recurrence(1 - alpha, alpha * y, level, axis=0)
    return (y[0] - level) ** 2 + ((y[1:] - levels[:-1]) ** 2).sum()


def fit_torch(y: Array) -> Iterator[Fit]:
    """Adam with PyTorch's autograd; yields the fit after each step."""
    import torch

    scaled = torch.from_numpy((y - y.mean()) / y.std())
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    level = scaled[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([logit, level], lr=RATE)
    while True:
        optimizer.zero_grad()
        loss = sum_of_squares(scaled, logit, level, torch.sigmoid)
        (loss / len(y)).backward()
        yield unscaled(y, torch.sigmoid(logit).item(), level.item(), loss.item())
        optimizer.step()


def fit_jax(y: Array) -> Iterator[Fit]:
    """The same descent in JAX: one jitted function of the parameters and Adam's two moments."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    scaled = jnp.asarray((y - y.mean()) / y.std())

    def mean_loss(parameters: Any) -> Any:
        return sum_of_squares(scaled, parameters[0], parameters[1], jax.nn.sigmoid) / len(y)

    @jax.jit
    def step(parameters: Any, first: Any, second: Any, count: Any) -> Any:
        loss, gradient = jax.value_and_grad(mean_loss)(parameters)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = (first / (1 - 0.9**count)) / (jnp.sqrt(second / (1 - 0.999**count)) + 1e-8)
        return parameters - RATE * change, first, second, loss

    parameters = jnp.stack([jnp.zeros(()), scaled[0]])
    first = second = jnp.zeros(2)
    count = 0
    while True:
        count += 1
        before = parameters
        parameters, first, second, loss = step(parameters, first, second, float(count))
        yield unscaled(y, float(jax.nn.sigmoid(before[0])), float(before[1]), float(loss) * len(y))


def unscaled(y: Array, alpha: float, level: float, loss: float) -> Fit:
    """The fit in the units of the series; gradient descent sees it standardised."""
    return Fit(alpha, level * float(y.std()) + float(y.mean()), loss * float(y.var()))


def descend(fits: Iterator[Fit], steps: int, title: str) -> Fit:
    """The best of `steps` steps, with a progress bar where tqdm is installed."""
    count: Any = range(steps)
    if importlib.util.find_spec("tqdm"):
        from tqdm import tqdm

        count = tqdm(count, desc=title, unit="step", leave=True, ncols=88)
    return min((next(fits) for _ in count), key=lambda fit: fit.loss)


def plot(fits: dict[str, dict[str, Fit]], folder: Path) -> str:
    """Draw each series and the levels of the last fit and of statsmodels'; returns the file, or why there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        return "none, matplotlib is not installed"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(fits), 1, figsize=(9, 7), layout="constrained")
    for panel, (name, y) in zip(panels, series().items(), strict=True):
        panel.plot(y, color="#bbbbbb", linewidth=1, label="observed")
        styles = {"statsmodels": ("#333333", "-", 2.2), "scanlib": ("#ee6677", "--", 1.2)}
        for title, fit in (
            ("statsmodels", fits[name]["statsmodels"]),
            ("scanlib", list(fits[name].values())[-1]),
        ):
            colour, line, width = styles[title]
            levels = scanlib.linear_recurrence(1 - fit.alpha, fit.alpha * y, np.asarray(fit.level))
            label = f"level, {title} (alpha {fit.alpha:.3f})"
            panel.plot(levels, color=colour, linestyle=line, linewidth=width, label=label)
        panel.set_title(name, loc="left", fontsize=10)
        panel.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
        panel.margins(y=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "exponential-smoothing.png"
    figure.savefig(target, dpi=130)
    pyplot.close(figure)
    return str(target)
