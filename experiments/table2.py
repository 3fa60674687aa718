"""Table 2 of Martin and Cundy (2018): training throughput of whole layers, with a parallel and with a serial scan.

Two layers of 256 units on 4 inputs, b * T = 65,536 steps a minibatch, T from 16 to 65,536; forward and backward to all
parameters, data already on the device. The same layer runs as it is ("own": where there is a kernel for it, gates and
scan in one pass) and, gates written out, with three scans:

    parallel   scanlib.linear_recurrence
    serial     a compiled loop over time, side by side over batch and units only: numba on a CPU (one core, vectorised
               over units), Triton on a GPU (a thread for each unit), as the paper's serial kernel
    steps      the same loop in PyTorch operations, one fused multiply-add for each step

and PyTorch's own LSTM (cuDNN's on a GPU) runs beside them. The authors' released benchmark differs from what the paper
prints: it timed the forward pass alone, with the copy from the host, SRU and QRNN had 24 units, QRNN (2) saw one input
and the "serial" GILR-LSTM kept a parallel surrogate. This is what the paper prints.

    python experiments/table2.py           64 units on a CPU: minutes
    python experiments/table2.py --full    256 units, the paper's size; the default on a GPU
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))
from bench.core.timing import Budget, interleaved
from experiments import experiment, serial_scan
from scanlib.cells import gates
from scanlib.layers import torch as layers

INPUTS, LAYERS = 4, 2
MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "SRU": layers.SRU,
    "QRNN (2)": lambda *sizes, **options: layers.QRNN(*sizes, width=2, **options),
    "QRNN (10)": lambda *sizes, **options: layers.QRNN(*sizes, width=10, **options),
    "GILR-LSTM": layers.GILRLSTM,
}
#: Parallel over serial, on a K80.
PAPER = {
    "SRU": {16: 0.28, 256: 0.84, 4096: 1.38, 65536: 9.21},
    "QRNN (2)": {16: 0.38, 256: 0.86, 4096: 1.18, 65536: 6.68},
    "QRNN (10)": {16: 0.78, 256: 0.99, 4096: 1.05, 65536: 2.05},
    "GILR-LSTM": {16: 0.61, 256: 0.91, 4096: 0.98, 65536: 1.41},
}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377")


def main() -> int:
    options = _parse()
    deadline = time.monotonic() + options.budget
    results = experiment.Results(options.output, "table2", options.fresh)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    wanted = [(model, length) for length in options.lengths for model in (*MODELS, "LSTM")]
    rows = []
    with experiment.bar("Table 2", len(wanted)) as bar:
        for model, length in wanted:
            key = {"model": model, "length": length, "steps": options.steps, "units": options.units}
            key["device"] = name
            row = results.find(key)
            if row is None:
                if time.monotonic() > deadline:
                    print("\nThe budget is used up; the same command goes on from here.")
                    break
                row = results.add(key, measure(model, length, options))
            rows.append(row)
            bar.advance(f"{model} T={length}")
    results.summarize(table(rows))
    print(f"\n{table(rows)}")
    if (target := plot(rows, options.output)) is not None:
        print(f"\nPlot: {target}")
    print(f"Results: {results.path}")
    return 0


def _parse() -> argparse.Namespace:
    parser = experiment.arguments(__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu or cuda (default %(default)s)")
    parser.add_argument("--full", action="store_true", help="256 units on a CPU too")
    parser.add_argument("--units", type=int, help="of each layer (default 256; on a CPU 64)")
    parser.add_argument("--steps", type=int, default=65536, help="b * T (default 65536)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for one row, at least 3 rounds")
    options = parser.parse_args()
    large = options.full or options.device != "cpu"
    options.units = options.units or (256 if large else 64)
    options.lengths = [T for T in (16, 256, 4096, 65536) if options.steps >= T]
    return options


def measure(model: str, length: int, options: argparse.Namespace) -> experiment.Row:
    """Seconds for a forward and backward pass with each scan, taking turns."""
    torch.manual_seed(0)
    batch = options.steps // length
    where = {"device": options.device}
    make = torch.nn.LSTM if model == "LSTM" else MODELS[model]
    layer = make(INPUTS, options.units, LAYERS, **where)
    x = torch.randn(length, batch, INPUTS, **where)
    grad = torch.randn(length, batch, options.units, **where)

    def train() -> None:
        layer.zero_grad()
        layer(x)[0].backward(grad)
        if x.is_cuda:
            torch.cuda.synchronize()

    scans = {"own": None} if model == "LSTM" else serial_scan.scans(options.device)
    calls = {name: _with(scan, train) for name, scan in scans.items()}
    if model != "LSTM":
        _check(layer, x[:, :2], scans)
    times = interleaved(calls, Budget(options.seconds, 3, 51))
    return {
        "seconds": {name: summary.as_json() for name, summary in times.items()},
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in layer.parameters()),
        "steps_per_second": {
            name: length * batch / summary.median for name, summary in times.items()
        },
    }


def _with(scan: Any, call: Callable[[], None]) -> Callable[[], None]:
    """The call, its layers using that scan in place of `scanlib.linear_recurrence`."""

    def run() -> None:
        with replaced(scan):
            call()

    return run


@contextlib.contextmanager
def replaced(scan: Any) -> Iterator[None]:
    """The cells with another scan and their gates written out; None leaves them as they are."""
    if scan is None:
        yield
        return
    with (
        mock.patch.object(gates, "_run_fused", return_value=None),
        mock.patch.object(gates, "linear_recurrence", scan),
    ):
        yield


def _check(layer: torch.nn.Module, x: Tensor, scans: dict[str, Any]) -> None:
    """Every scan must give the same output and gradients before it is timed."""
    found = []
    for scan in scans.values():
        layer.zero_grad()
        with replaced(scan):
            output = layer(x)[0]
            output.square().mean().backward()
        found.append((output.detach(), [p.grad.clone() for p in layer.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)


# ---- what is shown


def table(rows: list[experiment.Row]) -> str:
    """Markdown: parallel over serial and over steps, beside the paper's, and steps a second."""
    lines = [
        "| T | model | parallel / serial | the paper's | parallel / steps | million steps a second | beside LSTM |",
        "|---|---|---|---|---|---|---|",
    ]
    own = {
        row["key"]["length"]: row["steps_per_second"]["own"]
        for row in rows
        if row["key"]["model"] == "LSTM"
    }
    for row in rows:
        model, length, speed = row["key"]["model"], row["key"]["length"], row["steps_per_second"]
        if model == "LSTM":
            lines.append(f"| {length} | LSTM | | | | {speed['own'] / 1e6:.3g} | 1 |")
            continue
        ratios = [
            f"{speed['parallel'] / speed[name]:.2f}" if name in speed else "-"
            for name in ("serial", "steps")
        ]
        beside = f"{speed['own'] / own[length]:.2f}" if length in own else "-"
        paper = PAPER[model].get(length, "-")
        rate = f"{speed['own'] / 1e6:.3g}"
        lines.append(
            f"| {length} | {model} | {ratios[0]} | {paper} | {ratios[1]} | {rate} | {beside} |"
        )
    return "\n".join(lines)


def plot(rows: list[experiment.Row], folder: Path) -> Path | None:
    """Parallel over serial beside the paper's, and throughput beside the library's LSTM."""
    pyplot = experiment.pyplot()
    if pyplot is None or not rows:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for colour, model in zip(COLOURS, MODELS, strict=True):
        mine = [row for row in rows if row["key"]["model"] == model]
        lengths = [row["key"]["length"] for row in mine]
        speeds = [row["steps_per_second"] for row in mine]
        if all("serial" in speed for speed in speeds):
            ratios = [speed["parallel"] / speed["serial"] for speed in speeds]
            left.plot(lengths, ratios, "o-", color=colour, label=model)
        left.plot(*zip(*PAPER[model].items(), strict=True), ":", color=colour)
        right.plot(lengths, [s["own"] for s in speeds], "o-", color=colour, label=model)
    own = [row for row in rows if row["key"]["model"] == "LSTM"]
    style = {"color": "#333333", "label": "PyTorch's LSTM"}
    speeds = [row["steps_per_second"]["own"] for row in own]
    right.plot([row["key"]["length"] for row in own], speeds, "s--", **style)
    left.axhline(1, color="#333333", linewidth=1)
    left.set_title("parallel / serial scan; dotted: the paper, K80", loc="left", fontsize=10)
    right.set_title("steps a second, forward and backward", loc="left", fontsize=10)
    for panel in (left, right):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("T, with b * T constant")
        panel.grid(color="#dddddd", linewidth=0.6)
    right.legend(frameon=False, fontsize=8)
    target = folder / "table2.png"
    figure.savefig(target, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return target


if __name__ == "__main__":
    sys.exit(main())
