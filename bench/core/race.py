"""Ours beside every peer, on the same arrays, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from bench.core import libraries, reference, shapes
from bench.core.libraries import WORK, Library, bind, reader
from bench.core.peers import PEERS, Peer
from bench.core.shapes import Case
from bench.core.timing import Budget

Row = dict[str, Any]
OURS = "scanlib"
#: a coefficient for peers that take only one, the same for all steps
CONSTANT = 0.9


def jobs(
    log2: int, names: list[str], budget: Budget, brief: bool
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Every race as (title, function that runs it): forward on all shapes, with gradients on one of each layout.

    `brief` leaves out the gradients, and half of the shapes.
    """
    columns, _, _, rows, _, long = everything = shapes.shapes(log2)
    for name in names:
        for case in (columns, rows, long) if brief else everything:
            yield f"peers {case.name}: {name}, forward", _job(name, case, "forward", False, budget)
            if name == "numpy":
                yield (
                    f"peers {case.name}: {name}, constant a",
                    _job(name, case, "forward", True, budget),
                )
        for case in (columns, rows):
            if name != "numpy" and not brief:
                yield (
                    f"peers {case.name}: {name}, gradient",
                    _job(name, case, "forward + backward", False, budget),
                )


def _job(
    name: str, case: Case, work: str, constant: bool, budget: Budget
) -> Callable[[], list[Row]]:
    return lambda: race(libraries.load(name), case, work, constant, budget)


def race(
    library: Library,
    case: Case,
    work: str,
    constant: bool,
    budget: Budget,
    peers: Iterable[type] = PEERS,
) -> list[Row]:
    """Check ours and every peer of this library, then time them in turn; peers that cannot run say why."""
    inputs = library.inputs(case, "float32")
    if constant:
        inputs = replace(inputs, a=library.constant(case, CONSTANT, "float32"))
    operands = library.operands(case, inputs, work)
    rows: list[Row] = []
    calls = {OURS: bind(library, library.pair(case, work)[0], operands)}
    for kind in peers:
        if kind.library != library.name or kind.constant != constant:  # type: ignore[attr-defined]
            continue
        try:
            peer: Peer = kind()
            if reason := peer.reason(case):
                raise SkippedError(reason)
            function = library.wrap(peer.function(case), work)
            result = function(*operands)
            library.finish(result)
            h = result[0] if work == "forward + backward" else result
            if library.computes:
                a, x, found = (reader(library, case, peer.name, v) for v in (*operands[:2], h))
                reference.check(case, peer.name, 4, found, a, x)
        except (
            ImportError,
            SkippedError,
            reference.WrongResultError,
            MemoryError,
            RuntimeError,
        ) as error:
            text = str(error).splitlines()[0][:200]
            rows.append(_row(library.name, case, work, constant, kind.name) | {"skipped": text})  # type: ignore[attr-defined]
            continue
        calls[peer.name] = bind(library, function, operands)
    times = library.timer(calls, budget) if len(calls) > 1 else {}
    words = WORK[work].words - constant
    for name, summary in times.items():
        rows.append(
            _row(library.name, case, work, constant, name)
            | {
                "time": summary.as_json(),
                "ratio_to_ours": summary.median / times[OURS].median,
                "gigabytes_per_second": words * case.elements * 4 / summary.median / 1e9,
            }
        )
    return rows


def _row(library: str, case: Case, work: str, constant: bool, name: str) -> Row:
    return {
        "library": library,
        "case": case.name,
        "shape": list(case.shape),
        "axis": case.axis,
        "work": work,
        "constant_a": constant,
        "candidate": name,
    }


class SkippedError(Exception):
    """A peer that cannot run a case, and why."""
