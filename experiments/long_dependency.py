"""The long-dependency task: remember the sign of the first of T random symbols until after the last.

Problem 2b of Hochreiter and Schmidhuber (1997) as Martin and Cundy (2018) ran it. Every element of a sequence is a
random one-hot vector of 128 numbers; the first is (1, 0, ..., 0) or (-1, 0, ..., 0), and its sign has to be told from
the last output of two layers. Sequences are always fresh. A run has converged when five minibatches in a row are all
right and so are at least 95 % of held-out sequences, which the paper does not ask for; both moments are recorded.

    python experiments/long_dependency.py                                      T = 1,024, minutes on a CPU
    python experiments/long_dependency.py --length 8192
    python experiments/long_dependency.py --length 1048576 --units 64 --batch 2 --start coupled

The library's own LSTM runs beside GILR-LSTM with the same number of units, optimiser and forget bias. GILR-LSTM starts
from values found for this task (`latching`; `coupled` keeps the last layer's i = 1 - f for good, for the longest), with
`--start published` from those of its authors. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))
from experiments import experiment
from experiments.long_report import TITLES, plot, table
from scanlib.cells import forget_bias

SYMBOLS = 128
IN_A_ROW = 5
HELD_OUT_SHARE = 0.95
MODELS = ("gilr_lstm", "lstm")
STARTS = ("latching", "coupled", "published")
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a run."""

    library: str
    model: str
    length: int
    units: int
    batch: int
    rate: float
    seed: int
    device: str
    clip: float = 1.0
    layers: int = 2
    start: str = STARTS[0]

    @property
    def forget_bias(self) -> float:
        """So large that most of a state is left after T steps; see `scanlib.cells.forget_bias`."""
        return forget_bias(self.length)

    @property
    def latches(self) -> bool:
        return self.model == "gilr_lstm" and self.start != "published"

    @property
    def coupled(self) -> list[bool]:
        """Of each layer, whether i = 1 - f for good; only where a layer below counts what the last one latches by."""
        last = self.start == "coupled" and self.layers > 1
        return [*[False] * (self.layers - 1), last]

    @property
    def options(self) -> dict[str, Any]:
        """What a GILR-LSTM is made with."""
        return {"forget_bias": self.forget_bias, "coupled": self.coupled}

    @property
    def title(self) -> str:
        return f"{self.library} {TITLES[self.model]} T={self.length} seed {self.seed}"


class Learner(Protocol):
    """A model and its optimiser; `symbols` is (T, batch), `signs` is (batch,) of -1 and 1."""

    device: str
    parameters: int

    def learn(self, symbols: Array, signs: Array) -> tuple[float, float]:
        """One step of the optimiser; the loss and the share of right answers before it."""
        ...

    def right(self, symbols: Array, signs: Array) -> float:
        """The share of right answers."""
        ...

    def state(self) -> Any:
        """Everything that learning changes, as NumPy arrays."""
        ...

    def restore(self, state: Any) -> None: ...


@dataclass(slots=True)
class Progress:
    """How far a run is: what its checkpoint holds besides the learner's state."""

    iteration: int = 0
    streak: int = 0
    seconds: float = 0.0
    first_iteration: int | None = None  # when five in a row were right, the paper's criterion
    first_seconds: float | None = None
    held_out: float | None = None
    converged: bool = False


def main() -> int:
    options = _parse()
    deadline = time.monotonic() + options.budget
    results = experiment.Results(options.output, f"long-dependency-{options.length}", options.fresh)
    for settings in _runs(options):
        row = results.find(_key(settings))
        if row is None or (not row["converged"] and row["time_limit"] < options.time_limit):
            row = run(settings, results, options, deadline)
        if row is None:
            print("\nThe budget is used up; the same command goes on from here.")
            break
    shared = {name: getattr(options, name) for name in ("length", "units", "batch", "rate")}
    rows = [
        row
        for row in results.rows
        if shared.items() <= row["key"].items()
        and (row["key"]["model"] == "lstm" or row["key"].get("start") == options.start)
    ]
    results.summarize(table(rows))
    print(f"\n{table(rows)}")
    if (target := plot(rows, options.output)) is not None:
        print(f"\nPlot: {target}")
    print(f"Results: {results.path}")
    return 0


def _parse() -> argparse.Namespace:
    parser = experiment.arguments(__doc__)
    parser.add_argument("--library", default="torch,jax", help="torch, jax or both (default)")
    parser.add_argument(
        "--model", default=",".join(MODELS), help="gilr_lstm, lstm or both (default)"
    )
    parser.add_argument("--length", type=int, default=1024, help="T (default 1024)")
    parser.add_argument(
        "--units", type=int, default=64, help="of each layer (default 64; the paper's: 512)"
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences in a minibatch (default 8)")
    parser.add_argument(
        "--rate", type=float, default=1e-2, help="Adam's learning rate (default 0.01)"
    )
    parser.add_argument(
        "--start", choices=STARTS, default=STARTS[0], help="GILR-LSTM's (default latching)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each model (default 5)")
    parser.add_argument("--iterations", type=int, default=20_000, help="the most a run may take")
    parser.add_argument(
        "--time-limit", type=float, default=120, help="seconds a run may take (default 120)"
    )
    parser.add_argument(
        "--held-out", type=int, default=256, help="held-out sequences (default 256)"
    )
    parser.add_argument("--device", default="", help="torch's cpu or cuda (default: cuda if there)")
    options = parser.parse_args()
    if options.length < 2:
        parser.error(f"--length is {options.length}; at least 2 is needed.")
    return options


def _runs(options: argparse.Namespace) -> Iterator[Settings]:
    for library in options.library.split(","):
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: skipped")
            continue
        device = importlib.import_module(f"long_{library}").device(options.device)
        for model in options.model.split(","):
            for seed in range(options.seeds):
                shape = options.length, options.units, options.batch, options.rate
                start = options.start if model == "gilr_lstm" else "published"
                yield Settings(library, model, *shape, seed, device, start=start)


def _key(settings: Settings) -> experiment.Row:
    return asdict(settings)


def minibatch(settings: Settings, number: int, size: int | None = None) -> tuple[Array, Array]:
    """Minibatch `number` of a run, negative for held-out ones: symbols (T, batch) and signs (batch,).

    A function of the seed and the number alone, so that a resumed run sees what it would have seen.
    """
    random = np.random.default_rng((settings.seed, *((0, number) if number >= 0 else (1, -number))))
    size = size or settings.batch
    symbols = random.integers(0, SYMBOLS, (settings.length, size), np.int32)
    symbols[0] = 0
    return symbols, random.choice(np.float32([-1, 1]), size)


def latching(settings: Settings, published: Mapping[str, Array]) -> dict[str, Array]:
    """The initial parameters of a GILR-LSTM of two or more layers for this task, from those its authors published.

    A first layer that forgets nothing adds up all it sees. That sum is noise, but its drift tells the time, and a layer
    above can learn to open its input gate early and shut it for good: to latch. So the drift is given a start (a bias
    of the candidate), weights are large enough for it to move the gates above, and in the last layer i begins as 1 - f,
    with f nearer to 1/2, so that no unit counts steps: those that did, with f and i both near 1, made losses of
    thousands. Found by trial at T = 8,192; a default for other tasks it is not.
    """
    n, last = settings.units, settings.layers - 1
    forget, enter, candidate = (slice(k * n, (k + 1) * n) for k in (0, 1, 3))
    values = {name: np.array(value) for name, value in published.items()}
    for layer in range(settings.layers):
        values[f"weight_l{layer}"] *= 10
    values["bias_l0"][candidate] = np.random.default_rng(settings.seed).choice([-0.3, 0.3], n)
    values[f"bias_l{last}"][forget] = 2
    if not settings.coupled[last]:
        values[f"bias_l{last}"][enter] = -2
        values[f"weight_l{last}"][:, enter] = -values[f"weight_l{last}"][:, forget]
    return values


def run(
    settings: Settings, results: experiment.Results, options: argparse.Namespace, deadline: float
) -> experiment.Row | None:
    """Train until converged or out of time; None where the budget of the whole command ended first."""
    learner: Learner = importlib.import_module(f"long_{settings.library}").learner(settings)
    name = "-".join(str(value) for value in _key(settings).values()).replace(":", "")
    path = options.output / "checkpoints" / f"long-dependency-{name}.pickle"
    checkpoint = experiment.Checkpoint(path, options.fresh)
    progress = Progress()
    if (saved := checkpoint.load()) is not None:
        progress = Progress(**saved["progress"])
        learner.restore(saved["learner"])

    def state() -> Any:
        return {"progress": asdict(progress), "learner": learner.state()}

    curve: list[float] = []
    with experiment.bar(settings.title, options.iterations, progress.iteration) as bar:
        while (
            not progress.converged
            and progress.iteration < options.iterations
            and progress.seconds < options.time_limit
        ):
            if time.monotonic() > deadline:
                checkpoint.save(state())
                return None
            loss, right = _iterate(learner, settings, progress, options.held_out)
            curve.append(right)
            seconds = progress.seconds / progress.iteration
            bar.advance(f"loss {loss:.3f}, right {np.mean(curve[-20:]):.0%}, {seconds:.3f} s/it")
            if checkpoint.due:
                checkpoint.save(state())
    if not progress.converged:  # with a longer time limit it can go on from here
        checkpoint.save(state())
    else:
        checkpoint.remove()
    row = asdict(progress) | {
        "device": learner.device,
        "parameters": learner.parameters,
        "time_limit": options.time_limit,
    }
    return results.add(_key(settings), row)


def _iterate(
    learner: Learner, settings: Settings, progress: Progress, held_out: int
) -> tuple[float, float]:
    start = time.perf_counter()
    loss, right = learner.learn(*minibatch(settings, progress.iteration))
    if not math.isfinite(loss):
        raise FloatingPointError(f"{settings.title}: the loss is {loss}. Try a smaller --rate.")
    progress.seconds += time.perf_counter() - start
    progress.iteration += 1
    progress.streak = progress.streak + 1 if right == 1 else 0
    if progress.streak >= IN_A_ROW:
        if progress.first_iteration is None:
            progress.first_iteration, progress.first_seconds = progress.iteration, progress.seconds
        progress.held_out = _held_out(learner, settings, held_out)
        progress.converged = progress.held_out >= HELD_OUT_SHARE
        progress.streak = 0
    return loss, right


def _held_out(learner: Learner, settings: Settings, count: int) -> float:
    """The share of held-out sequences that are right; stops early where too many are wrong already."""
    seen = wrong = 0.0
    for number in range(1, math.ceil(count / settings.batch) + 1):
        seen += settings.batch
        wrong += settings.batch * (1 - learner.right(*minibatch(settings, -number)))
        if wrong > count * (1 - HELD_OUT_SHARE):
            break
    return 1 - wrong / seen


if __name__ == "__main__":
    sys.exit(main())
