"""A character-level language model of Python's own documentation, trained on sequences of 4,096 characters.

The text is that of `help()` for Python's topics, which every Python brings along (`pydoc_data.topics`, close to half a
megabyte). Each model has two recurrent layers, the same number of parameters and the same time to train: GILR-LSTM,
minGRU and SRU from scanlib, and PyTorch's own LSTM. At the end the best model writes a few lines, one character at a
time through the layers' `step`.

    python experiments/language_model.py                  three minutes for each model
    python experiments/language_model.py --seconds 12     what `make demo` runs

A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from torch_training import Training, arrays, mapped, tensors

sys.path.append(str(Path(__file__).resolve().parent.parent))
from experiments import experiment
from scanlib.layers import torch as layers

LENGTH, EMBEDDING, LAYERS = 4096, 64, 2
TEMPERATURE = 0.7  # of what is written
MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "GILR-LSTM": lambda *sizes, **where: layers.GILRLSTM(*sizes, forget_bias=2.0, **where),
    "minGRU": layers.MinGRU,
    "SRU": lambda *sizes, **where: layers.SRU(*sizes, forget_bias=1.0, **where),
    "LSTM": torch.nn.LSTM,
}
COLOURS = dict(zip(MODELS, ("#4477aa", "#228833", "#ee6677", "#999999"), strict=True))


@dataclass(frozen=True, slots=True)
class Text:
    """The text as numbers: its alphabet, the part to learn from and the part to be tested on."""

    alphabet: str
    train: Tensor
    held_out: Tensor


def load_text() -> Text:
    """Every twelfth topic is held out. Topics quote each other, so every paragraph is taken only once."""
    names, seen = sorted(topics), set[str]()

    def paragraphs(chosen: list[str]) -> Iterator[str]:
        for paragraph in "\n\n".join(topics[name] for name in chosen).split("\n\n"):
            if paragraph not in seen:
                seen.add(paragraph)
                yield paragraph

    held_out = "\n\n".join(paragraphs(names[4::12]))
    train = "\n\n".join(paragraphs([name for n, name in enumerate(names) if n % 12 != 4]))
    alphabet = "".join(sorted(set(train + held_out)))
    place = {character: number for number, character in enumerate(alphabet)}
    parts = (torch.tensor([place[character] for character in part]) for part in (train, held_out))
    return Text(alphabet, *parts)


class Model(torch.nn.Module):
    """Characters to the logits of the next ones; time first."""

    def __init__(self, name: str, alphabet: int, units: int, **where: Any) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(alphabet, EMBEDDING, **where)
        self.layers = MODELS[name](EMBEDDING, units, LAYERS, **where)
        self.readout = torch.nn.Linear(units, alphabet, **where)
        # The same for every model: the published initial values of some are small, which a short training feels.
        for weight in self.layers.parameters():
            if weight.ndim == 2 and not weight.is_meta:
                torch.nn.init.xavier_uniform_(weight)

    def forward(self, characters: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.layers(self.embedding(characters), state)
        return self.readout(output), state

    def step(self, character: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One character; PyTorch's LSTM takes it as a sequence of one."""
        if isinstance(self.layers, layers.Layer):
            output, state = self.layers.step(self.embedding(character), state)
            return self.readout(output), state
        logits, state = self(character[None], state)
        return logits[0], state


def units_for(name: str, alphabet: int, parameters: int) -> int:
    """The most units with which a model has no more than that many parameters."""
    units = 1
    while count(Model(name, alphabet, units + 1, device="meta")) <= parameters:
        units += 1
    return units


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    seconds: float = 0.0
    steps: int = 0
    start: int = 0  # of the next sequence in the text
    curve: list[tuple[float, float]] | None = None  # seconds, bits per character


def train(
    name: str,
    text: Text,
    options: argparse.Namespace,
    checkpoint: experiment.Checkpoint,
    deadline: float,
) -> tuple[Model, experiment.Row] | None:
    """Train for the given time; None where the budget of the whole command ended first."""
    torch.manual_seed(0)
    alphabet = len(text.alphabet)
    lstm = count(Model("LSTM", alphabet, options.units, device="meta"))
    model = Model(name, alphabet, units_for(name, alphabet, lstm)).to(options.device)
    training, progress, state = Training(model, options.rate, 1.0), Progress(curve=[]), None
    if (saved := checkpoint.load()) is not None:
        training.restore(saved["training"])
        progress, state = Progress(**saved["progress"]), tensors(saved["state"])
        state = mapped(state, Tensor, lambda tensor: tensor.to(options.device))
    rows = text.train[: len(text.train) // options.batch * options.batch]
    rows = rows.reshape(options.batch, -1).T.to(options.device)
    assert progress.curve is not None
    with experiment.bar(f"   {name}", int(options.seconds), int(progress.seconds)) as bar:
        while progress.seconds < options.seconds:
            if time.monotonic() > deadline or checkpoint.due:
                fields = {field: getattr(progress, field) for field in Progress.__slots__}
                saved = {"training": training.state(), "progress": fields, "state": arrays(state)}
                checkpoint.save(saved)
                if time.monotonic() > deadline:
                    return None
            began = time.perf_counter()
            piece = rows[progress.start : progress.start + LENGTH + 1]
            logits, state = model(piece[:-1], state)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), piece[1:].flatten())
            training.step(loss, options.rate * (1 - progress.seconds / options.seconds))
            state = mapped(state, Tensor, Tensor.detach)
            bits = loss.item() / math.log(2)
            progress.start += LENGTH
            if progress.start + LENGTH >= len(rows):  # the text from its start, a little shifted
                progress.start, state = progress.steps % LENGTH, None
            before, progress.seconds = (
                progress.seconds,
                progress.seconds + time.perf_counter() - began,
            )
            progress.steps += 1
            progress.curve.append((round(progress.seconds, 3), round(bits, 4)))
            note = f"{bits:.2f} bits a character"
            bar.advance(note, min(int(progress.seconds), bar.total) - int(before))
    checkpoint.remove()
    characters = progress.steps * LENGTH * options.batch
    return model, {
        "units": model.readout.in_features,
        "parameters": count(model),
        "characters": characters,
        "characters_per_second": characters / progress.seconds,
        "bits_per_character": bits_per_character(model, text.held_out.to(options.device)),
        "curve": thinned(progress.curve, 80),
    }


def thinned(curve: list[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most `count` points, each the mean of its neighbours."""
    size = math.ceil(len(curve) / count)
    pieces = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [
        (round(statistics.mean(seconds), 3), round(statistics.mean(bits), 4))
        for seconds, bits in (zip(*piece, strict=True) for piece in pieces)
    ]


@torch.no_grad()
def bits_per_character(model: Model, text: Tensor) -> float:
    """Of a whole text, read as one sequence in pieces."""
    total, state = 0.0, None
    for piece in (text[start : start + LENGTH + 1] for start in range(0, len(text) - 1, LENGTH)):
        logits, state = model(piece[:-1, None], state)
        loss = torch.nn.functional.cross_entropy(logits[:, 0], piece[1:], reduction="sum")
        total += loss.item()
    return total / math.log(2) / (len(text) - 1)


@torch.no_grad()
def sample(model: Model, text: Text, length: int, device: str) -> str:
    """What the model writes after the held-out text's first lines, character by character."""
    generator = torch.Generator().manual_seed(0)
    written, state = [], None
    logits, state = model(text.held_out[:200, None].to(device), state)
    logits = logits[-1]
    for _ in range(length):
        likely = torch.softmax(logits[0].float().cpu() / TEMPERATURE, 0)
        written.append(int(torch.multinomial(likely, 1, generator=generator)))
        logits, state = model.step(torch.tensor([written[-1]], device=device), state)
    return "".join(text.alphabet[number] for number in written)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    deadline = time.monotonic() + options.budget
    text = load_text()
    results = experiment.Results(options.output, "language-model", options.fresh)
    rows, best = [], None
    for name in options.models.split(","):
        fields = ("seconds", "units", "batch", "rate", "device")
        key = {"model": name, "length": LENGTH} | {
            field: getattr(options, field) for field in fields
        }
        row = results.find(key)
        if row is None:
            path = options.output / "checkpoints" / f"language-model-{name}.pickle"
            trained = train(
                name, text, options, experiment.Checkpoint(path, options.fresh), deadline
            )
            if trained is None:
                print("\nThe budget is used up; the same command goes on from here.")
                break
            model, row = trained
            row["sample"] = sample(model, text, 400, options.device)
            row = results.add(key, row)
        rows.append(row)
        if best is None or row["bits_per_character"] < best["bits_per_character"]:
            best = row
    results.summarize(table(rows))
    print("\n" + "\n".join(f"   {line}" for line in table(rows).splitlines()))
    if best is not None:
        print(
            f"\n   {best['key']['model']} writes, after the first 200 characters of the held-out text:\n"
        )
        print("\n".join(f"   | {line[:100].rstrip()}" for line in best["sample"].splitlines()))
    if (target := plot(rows, options.output)) is not None:
        print(f"\n   Plot: {target}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = experiment.arguments(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--seconds", type=float, default=180, help="of training (default 180)")
    parser.add_argument("--units", type=int, default=128, help="of the LSTM's layers (default 128)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time (default 1)")
    parser.add_argument("--rate", type=float, default=1e-2, help="Adam's first (default 0.01)")
    parser.add_argument("--device", default=device, help="cpu or cuda (default %(default)s)")
    return parser.parse_args(arguments)


def table(rows: list[experiment.Row]) -> str:
    """Markdown that is easy to read as it is: a line for each model."""
    heading = ("model", "units", "parameters", "characters/s", "characters seen", "bits/character")
    lines = [heading, tuple("-" * width for width in (10, 5, 10, 12, 15, 14))]
    lines += [
        (
            row["key"]["model"],
            str(row["units"]),
            f"{row['parameters']:,}",
            f"{row['characters_per_second']:,.0f}",
            f"{row['characters']:,}",
            f"{row['bits_per_character']:.3f}",
        )
        for row in rows
    ]
    form = "| {:10} | {:>5} | {:>10} | {:>12} | {:>15} | {:>14} |"
    return "\n".join(form.format(*line) for line in lines)


def plot(rows: list[experiment.Row], folder: Path) -> Path | None:
    """Bits per character in training against seconds."""
    pyplot = experiment.pyplot()
    if pyplot is None or not rows:
        return None
    figure, panel = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for row in rows:
        name, (seconds, bits) = row["key"]["model"], zip(*row["curve"], strict=True)
        panel.plot(seconds, bits, color=COLOURS[name], label=name, linewidth=1.2)
    panel.set_xlabel("seconds of training")
    panel.set_ylabel("bits per character")
    panel.set_title(
        f"sequences of {LENGTH:,} characters, equal parameters", loc="left", fontsize=10
    )
    panel.legend(frameon=False)
    panel.grid(color="#dddddd", linewidth=0.6)
    target = folder / "language-model.png"
    figure.savefig(target, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return target


if __name__ == "__main__":
    sys.exit(main())
