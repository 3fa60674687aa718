"""Training speed of whole layers on this machine: GILR-LSTM and others beside PyTorch's LSTM of equal parameters.

Each row is one forward and backward pass over a sequence of T steps in a batch of b, to the input and all parameters,
the models taking turns. It also counts the words (numbers of the layer's dtype) that every operation outside the matrix
multiplications reads and writes, for each step and hidden unit: what a layer moves through memory.

    python experiments/layers.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.append(str(Path(__file__).resolve().parent.parent))
from bench.core.timing import Budget, interleaved
from experiments import experiment
from scanlib.layers import torch as layers

MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "LSTM": torch.nn.LSTM,
    "GILR-LSTM": layers.GILRLSTM,
    "SRU": layers.SRU,
    "minGRU": layers.MinGRU,
    "QRNN (2)": layers.QRNN,
}
#: (T, batch, inputs, units of the LSTM)
CASES = [
    (4096, 1, 32, 32),
    (4096, 1, 64, 64),
    (4096, 1, 128, 128),
    (4096, 1, 256, 256),
    (4096, 1, 512, 512),
    (4096, 8, 64, 64),
    (65536, 1, 64, 64),
]
MULTIPLICATIONS = ("mm", "addmm", "addmm_", "bmm")


def main() -> int:
    parser = experiment.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="for one case (default 15)")
    options = parser.parse_args()
    results = experiment.Results(options.output, "layers", options.fresh)
    rows = []
    for length, batch, inputs, units in CASES:
        key = {"length": length, "batch": batch, "inputs": inputs, "units": units}
        rows.append(results.find(key) or results.add(key, measure(*key.values(), options.seconds)))
        print(table(rows[-1:]), flush=True)
    results.summarize(table(rows))
    print(f"\nResults: {results.path}")
    return 0


def table(rows: list[experiment.Row]) -> str:
    """Markdown: milliseconds of the LSTM, how many times its speed the others have, and GILR-LSTM's words."""
    head = (
        "T",
        "batch",
        "inputs",
        "parameters",
        "LSTM",
        *(name for name in MODELS if name != "LSTM"),
    )
    lines = [head, ("---",) * len(head)]
    for row in rows:
        key, seconds = row["key"], {k: v["median"] for k, v in row["seconds"].items()}
        lines.append(
            (
                f"{key['length']:,}",
                str(key["batch"]),
                str(key["inputs"]),
                f"{row['parameters']['LSTM']:,}",
                f"{seconds['LSTM'] * 1e3:.1f} ms",
                *(f"{seconds['LSTM'] / seconds[name]:.2f}x" for name in MODELS if name != "LSTM"),
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(length: int, batch: int, inputs: int, units: int, seconds: float) -> experiment.Row:
    """Seconds, parameters and words of every model."""
    torch.manual_seed(0)
    x = torch.randn(length, batch, inputs, requires_grad=True)
    limit = _count(torch.nn.LSTM(inputs, units, device="meta"))
    models = {
        name: make(inputs, units_within(make, inputs, limit)) for name, make in MODELS.items()
    }
    calls = {name: _training(model, x) for name, model in models.items()}
    times = interleaved(calls, Budget(seconds, 3, 51))
    words = {name: _words(model, x) for name, model in models.items() if name != "LSTM"}
    return {
        "seconds": {name: summary.as_json() for name, summary in times.items()},
        "parameters": {name: _count(model) for name, model in models.items()},
        "units": {name: model.hidden_size for name, model in models.items()},
        "words": words,
        "threads": torch.get_num_threads(),
    }


def units_within(make: Callable[..., torch.nn.Module], inputs: int, limit: int) -> int:
    """The most units with which a layer has no more than `limit` parameters."""
    units = 1
    while _count(make(inputs, units + 1, device="meta")) <= limit:
        units += 1
    return units


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _training(model: torch.nn.Module, x: Tensor) -> Callable[[], None]:
    grad = torch.randn_like(model(x)[0])

    def train() -> None:
        model.zero_grad()
        x.grad = None
        model(x)[0].backward(grad)

    return train


def _words(model: Any, x: Tensor) -> dict[str, float]:
    """Words an element of (T, batch, units) that forward and backward read and write outside multiplications."""
    size = math.prod(x.shape[:-1]) * model.hidden_size
    with WordCount() as forward:
        output = model(x)[0]
    with WordCount() as backward:
        output.backward(torch.ones_like(output))
    return {"forward": forward.words / size, "backward": backward.words / size}


class WordCount(TorchDispatchMode):
    """Adds up the elements of all tensors that operations read and write, views and multiplications left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0
        self.by_operation: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        read = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        places = {t.untyped_storage().data_ptr() for t in read}
        view = made and all(t.untyped_storage().data_ptr() in places for t in made)
        works = name.endswith("_") or not view
        if works and name not in MULTIPLICATIONS and not name.startswith(("empty", "new_empty")):
            moved = sum(t.numel() for t in (*read, *made))
            self.words += moved
            self.by_operation[name] = self.by_operation.get(name, 0) + moved
        return result


if __name__ == "__main__":
    sys.exit(main())
