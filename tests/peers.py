"""Published implementations that the cells are compared with, and how closely they have to agree.

One table behind tests/test_cells_peers.py and docs/cells.md. The releases are those of the extra `peers` in
pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@dataclass(frozen=True)
class Peer:
    """What of a package is compared, and the largest error relative to its largest value, in float32."""

    package: str
    what: str
    error: float


RG_LRU = Peer("recurrentgemma", "RG-LRU, with resets and a state handed on", 1e-6)
RG_LRU_TRANSFORMERS = Peer("transformers", "RG-LRU", 1e-6)
WKV = Peer("transformers", "WKV and RWKV's time mixing, exponents around 1 and around 20", 5e-5)
WKV_STATE = Peer("transformers", "the state of WKV", 1e-4)
THREE = Peer("torchrecurrent", "T-RNN, T-GRU, T-LSTM", 2e-6)
MINIMAL = Peer("minGRU-pytorch", "minGRU and minLSTM, step by step", 1e-6)
MINIMAL_SCAN = Peer("minGRU-pytorch", "minGRU and minLSTM, its scan of logarithms", 2e-5)
S5 = Peer("s5-pytorch", "S5", 1e-6)

PEERS = (RG_LRU, RG_LRU_TRANSFORMERS, WKV, WKV_STATE, THREE, MINIMAL, MINIMAL_SCAN, S5)


def releases() -> dict[str, str]:
    """Package -> the one release that is compared with."""
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    pinned = (re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in extras["peers"])
    return {found[1]: found[2] for found in pinned if found}


def table() -> str:
    """What docs/cells.md says of them, in Markdown."""
    release = releases()
    lines = ["| package | what | agrees within |", "| --- | --- | --- |"]
    for peer in PEERS:
        lines.append(f"| {peer.package} {release[peer.package]} | {peer.what} | {peer.error:.0e} |")
    return "\n".join(lines).replace("e-0", "e-")
