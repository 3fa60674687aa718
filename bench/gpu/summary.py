"""The summary of a GPU check: one line a stage, one line a shape, one line a knob; in Markdown and JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu import report as gpu_report
from bench.gpu import stages as gpu_stages
from bench.gpu.report import Found, Row
from bench.gpu.stages import Stage

MOST_NOTES = 12


def write(
    stages: Sequence[Stage], output: Path, gpu: str, rehearsal: bool = False
) -> tuple[str, dict[str, Any]]:
    """Write summary.md and summary.json; returns both contents."""
    found = gpu_report.read(output / gpu_report.FILE)
    rows = {name: found.get(name, Found()).rows for name in SECTIONS}
    if rehearsal:
        sections = [[f"- {name}: {len(rows[name])} rows, not checked: rehearsal"] for name in rows]
    else:
        sections = [section(rows[name]) for name, section in SECTIONS.items()]
    sections = [_stages(stages, found), *sections, _notes(found)]
    title = f"# {gpu or 'No GPU'}, {datetime.datetime.now(datetime.UTC).date()}"
    if rehearsal:
        title += ": a rehearsal, of which no value and no time means anything"
    text = "\n".join([title, "", *("\n".join([*lines, ""]) for lines in sections if lines)])
    content = {
        "gpu": gpu or None,
        "rehearsal": rehearsal,
        "steps": [
            {
                "name": stage.name,
                "verdict": stage.verdict,
                "seconds": round(stage.took, 1),
                "said": stage.said,
            }
            for stage in stages
        ],
        "compiled": sum(stage.compiled for stage in found.values()),
        "price": [row for row in rows["price"] if "ratio" in row],
        "sweep": [row for row in rows["sweep"] if "best" in row],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "summary.md").write_text(text)
    (output / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    return text, content


def _stages(stages: Sequence[Stage], found: dict[str, Found]) -> list[str]:
    lines = ["| stage | verdict | seconds | |", "|---|---|---|---|"]
    for stage in stages:
        lines.append(
            f"| {stage.name} | {stage.verdict} | {stage.took:.0f} | {_plain(stage.said)} |"
        )
    compiled = {name: part.compiled for name, part in found.items() if part.compiled}
    many = ", ".join(f"{count} in {name}" for name, count in compiled.items())
    return [*lines, "", f"Programs compiled: {many or 'none'}."]


def _shapes(rows: list[Row]) -> list[str]:
    """A line for each shape and library; in a cell the ratio to the library's own, and GB/s."""
    rows_ = [row for row in rows if "ratio" in row]
    if not rows_:
        return []
    roof = next((row["gigabytes_per_second"] for row in rows if row["work"] == "copy"), None)
    works = list(dict.fromkeys((row["dtype"], row["work"]) for row in rows_))
    lines = ["Time beside the library's own add (backward: multiply), and GB/s"]
    lines[0] += f"; a copy moves {roof:.0f} GB/s." if roof else "."
    heads = [f"{dtype.replace('float', 'f')} {work}" for dtype, work in works]
    lines += ["", f"| shape | library | {' | '.join(heads)} |", "|---" * (len(works) + 2) + "|"]
    for case, name in dict.fromkeys((row["case"], row["library"]) for row in rows_):
        mine = {
            (r["dtype"], r["work"]): r for r in rows_ if (r["case"], r["library"]) == (case, name)
        }
        cells = [
            f"{mine[work]['ratio']:.2f}, {mine[work]['gigabytes_per_second']:.0f}"
            if work in mine
            else ""
            for work in works
        ]
        lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
    return lines


def _knobs(rows: list[Row]) -> list[str]:
    """What to change in CudaTuning."""
    table = [row for row in rows if "best" in row]
    if not table:
        return []
    lines = ["| knob | now | best | forward | backward | noise | worst | CudaTuning |"]
    lines.append("|---" * 8 + "|")
    for row in table:
        verdict = "keep"
        if row["change"]:
            verdict = f"**{row['knob']} = {row['best']}**, {row['gain']:.1%} faster"
        gains = (row.get(f"gain {work}") for work in ("forward", "backward"))
        cells = [
            row["knob"],
            "" if row["now"] is None else str(row["now"]),
            str(row["best"]),
            *("" if gain is None else f"{gain:+.1%}" for gain in gains),
            f"{row['noise']:.1%}",
            f"{row['worst']:.2f} at {row['worst at']}",
            verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    refused = {(row["knob"], row["value"]): row["refused"] for row in rows if "refused" in row}
    return [*lines, "", *(f"- {k} {v}, refused: {_plain(why)}" for (k, v), why in refused.items())]


def _kernels(rows: list[Row]) -> list[str]:
    return [f"- {'; '.join(f'{key} {value}' for key, value in row.items())}" for row in rows]


def _table1(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    features = sorted({row["features"] for row in rows})
    lines = ["Times the speed of one thread a feature:", ""]
    lines.append(f"| T | {' | '.join(f'm={m}' for m in features)} |")
    lines.append("|---" * (len(features) + 1) + "|")
    for steps in sorted({row["steps"] for row in rows}):
        cells = {row["features"]: f"{row['speedup']:.2f}" for row in rows if row["steps"] == steps}
        lines.append(f"| {steps} | {' | '.join(cells.get(m, '') for m in features)} |")
    return lines


def _peers(rows: list[Row]) -> list[str]:
    rows = [row for row in rows if row["candidate"] != "scanlib"]
    if not rows:
        return []
    lines = ["| case | candidate | GB/s | time beside ours |", "|---|---|---|---|"]
    for row in rows:
        case = row.get("case", f"{row.get('elements')} elements")
        if "skipped" in row:
            lines.append(f"| {case} | {row['candidate']} | | {_plain(row['skipped'])[:80]} |")
            continue
        ratio = f"{row['ratio_to_ours']:.2f}" if "ratio_to_ours" in row else ""
        lines.append(
            f"| {case} | {row['candidate']} | {row['gigabytes_per_second']:.0f} | {ratio} |"
        )
    return lines


#: The stages that measure, and the lines that their rows make.
SECTIONS: dict[str, Callable[[list[Row]], list[str]]] = {
    "price": _shapes,
    "sweep": _knobs,
    "profile": _kernels,
    "table1": _table1,
    "peers": _peers,
}


def _notes(found: dict[str, Found]) -> list[str]:
    lines = []
    for name, stage in found.items():
        for kind, notes in (("failed", stage.failed), ("left out", stage.left_out)):
            lines += [f"- {name}, {kind}: {_plain(note)[:300]}" for note in notes[:MOST_NOTES]]
            if len(notes) > MOST_NOTES:
                lines.append(f"- {name}, {kind}: {len(notes) - MOST_NOTES} more")
    return lines


def _plain(text: str) -> str:
    """On one line of a table."""
    return " ".join(text.replace("|", "/").split())


def status(stages: Sequence[Stage]) -> int:
    """Of the whole: 1 where something failed, 3 where something could not run."""
    if any(stage.verdict == "FAILED" for stage in stages):
        return 1
    return gpu_stages.COULD_NOT if any(stage.status != 0 for stage in stages) else 0
