"""Loops of a GPU's machine code, and paths around them, on the blocks that sass.py reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sass import Block, Instruction


@dataclass(frozen=True)
class Loop:
    header: int
    blocks: frozenset[int]
    latches: frozenset[int]


def loops(blocks: list[Block]) -> list[Loop]:
    """Natural loops, those that share a header as one."""
    known = dominators(blocks)
    before: dict[int, list[int]] = {block.number: [] for block in blocks}
    for number in known:
        for after in blocks[number].after:
            before[after].append(number)
    found: dict[int, tuple[set[int], set[int]]] = {}
    for number in known:
        for header in blocks[number].after:
            if header in known[number]:
                inside, latches = found.setdefault(header, ({header}, set()))
                latches.add(number)
                todo = [number]
                while todo:
                    one = todo.pop()
                    if one not in inside:
                        inside.add(one)
                        todo.extend(before[one])
    return [
        Loop(header, frozenset(inside), frozenset(latches))
        for header, (inside, latches) in found.items()
    ]


def dominators(blocks: list[Block]) -> dict[int, set[int]]:
    """The blocks that each block which can be reached cannot be reached without, itself among them."""
    order = reachable(blocks, 0)
    known = {number: set(order) for number in order}
    known[0] = {0}
    before: dict[int, list[int]] = {number: [] for number in order}
    for number in order:
        for after in blocks[number].after:
            before[after].append(number)
    changed = True
    while changed:
        changed = False
        for number in order[1:]:
            new = set.intersection(*(known[one] for one in before[number])) | {number}
            changed = changed or new != known[number]
            known[number] = new
    return known


def reachable(
    blocks: list[Block],
    start: int,
    within: Iterable[int] | None = None,
    without: Iterable[tuple[int, int]] = (),
) -> list[int]:
    """Blocks that can follow `start`, in reverse postorder: `within` some blocks, `without` some edges."""
    inside = None if within is None else set(within)
    seen, order = {start}, []
    todo = [(start, iter(blocks[start].after))]
    while todo:
        number, rest = todo[-1]
        for after in rest:
            if (
                (number, after) not in without
                and after not in seen
                and (inside is None or after in inside)
            ):
                seen.add(after)
                todo.append((after, iter(blocks[after].after)))
                break
        else:
            order.append(number)
            todo.pop()
    return order[::-1]


Weight = tuple[float, ...]


def best_path(
    blocks: list[Block], loop: Loop, inner: list[Loop], weigh: Callable[[Block], Weight]
) -> tuple[Weight, list[int]]:
    """Once around a loop, each inner loop passed once: the path of the greatest weight, compared number by number."""
    back = _back(loop, inner)
    order = _forward(blocks, loop, back)
    best: dict[int, tuple[Weight, list[int]]] = {
        loop.header: (weigh(blocks[loop.header]), [loop.header])
    }
    for number in order:
        if number not in best:
            continue
        weight, path = best[number]
        for after in blocks[number].after:
            if after in loop.blocks and (number, after) not in back:
                more = weigh(blocks[after])
                total = tuple(a + b for a, b in zip(weight, more, strict=True))
                if after not in best or total > best[after][0]:
                    best[after] = total, [*path, after]
    return max((best[latch] for latch in loop.latches if latch in best), key=lambda found: found[0])


def _back(loop: Loop, inner: list[Loop]) -> set[tuple[int, int]]:
    """The edges that begin a round of these loops again."""
    return {(latch, each.header) for each in [loop, *inner] for latch in each.latches}


def _forward(blocks: list[Block], loop: Loop, back: set[tuple[int, int]]) -> list[int]:
    """The blocks of a loop, each before those that follow it."""
    seen, order = {loop.header}, []

    def follow(number: int) -> list[int]:
        return [n for n in blocks[number].after if n in loop.blocks and (number, n) not in back]

    todo = [(loop.header, iter(follow(loop.header)))]
    while todo:
        number, rest = todo[-1]
        for after in rest:
            if after not in seen:
                seen.add(after)
                todo.append((after, iter(follow(after))))
                break
        else:
            order.append(number)
            todo.pop()
    return order[::-1]


def first_of(
    blocks: list[Block], loop: Loop, inner: list[Loop], numbers: Iterable[int]
) -> int | None:
    """Of these blocks of a loop, the one that comes before the others on the way around it."""
    wanted = set(numbers)
    order = _forward(blocks, loop, _back(loop, inner))
    return next((number for number in order if number in wanted), None)


def expanded(
    blocks: list[Block],
    path: list[int],
    inner: list[Loop],
    times: Callable[[Loop], int],
    weigh: Callable[[Block], Weight],
    pick: Callable[[Block], list[Instruction]] = lambda block: block.code,
) -> list[Instruction]:
    """The instructions of a path, or some of them, with each inner loop as often as it runs."""
    code: list[Instruction] = []
    for number in path:
        for loop in inner:
            if loop.header == number and (rounds := times(loop)) > 1:
                within = [one for one in inner if one.blocks < loop.blocks]
                _, around = best_path(blocks, loop, within, weigh)
                code += expanded(blocks, around, within, times, weigh, pick) * (rounds - 1)
        code += pick(blocks[number])
    return code
