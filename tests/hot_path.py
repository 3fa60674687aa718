"""A program of the benchmark, and the hot path through its machine code: once around the loop over tiles.

docs/gpu-model.md describes what is taken for hot.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sass
import sass_loops
from cuda_gate import KERNELS
from sass import Block, Instruction
from sass_loops import Loop

if TYPE_CHECKING:
    from bench.core.shapes import Case

MOST_ROUNDS = 64  # of a loop inside a tile; greater constants are no count
CALLED = 100  # instructions of a function that is called: 64-bit divisions, which hot paths avoid

# ---- a program


@dataclass(frozen=True)
class Program:
    """One launch of the benchmark."""

    case: Case
    dtype: str
    backward: bool
    definitions: str
    scratch: int

    @functools.cached_property
    def given(self) -> dict[str, int]:
        found = re.findall(r"-DSCANLIB_(\w+)=(-?\d+)", self.definitions)
        return {name: int(value) for name, value in found}

    @property
    def direction(self) -> str:
        return "backward" if self.backward else "forward"

    @property
    def kernel(self) -> str:
        return KERNELS[self.given["KERNEL"]]

    @property
    def warps(self) -> int:
        return self.given["THREADS"] // 32

    @property
    def run(self) -> int:
        return self.given["RUN"]

    @property
    def bundle(self) -> int:
        """Tiles that are joined at a time; 0 where carriers do so."""
        return self.given["BUNDLE"]

    @property
    def steps(self) -> int:
        return self.case.shape[self.case.axis]

    @property
    def groups(self) -> int:
        """Of neighbouring sequences; a block has one at a time."""
        return math.ceil(self.case.elements / self.steps / self.given["WIDTH"])

    @property
    def tiles(self) -> int:
        """Of each group."""
        return math.ceil(self.steps / (self.slices * self.run))

    @property
    def slices(self) -> int:
        return self.given["THREADS"] // self.given["WIDTH"]

    @property
    def item(self) -> int:
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def arrays(self) -> tuple[int, int]:
        """Arrays read and written."""
        return (3, 2) if self.backward else (2, 1)

    @property
    def tile_bytes(self) -> int:
        return self.given["THREADS"] * self.run * self.item * sum(self.arrays)


# ---- the hot path


@dataclass(frozen=True)
class HotPath:
    """Once around the loop over tiles, as one warp goes."""

    usual: list[Instruction]  # of any warp
    longest: list[Instruction]  # of one that also publishes and looks back
    moved: list[Instruction]  # the loads and stores of a tile's elements
    elsewhere: frozenset[
        int
    ]  # addresses in `longest` at which other warps wait, beside the one that goes on


class NoLoopError(Exception):
    """The code has no loop that loads and stores a tile."""


def hot_path(blocks: list[Block], program: Program) -> HotPath:
    """Through accesses of 16 bytes wherever there are any, and what else there is to do by the shortest way."""
    found = sass_loops.loops(blocks)
    for wide in (True, False):
        moved_of = functools.partial(_moved, wide=wide, program=program)
        candidates = []
        for loop in found:
            path = _path(blocks, loop, found, functools.partial(_most_moved, moved_of))
            moved = [one for number in path for one in moved_of(blocks[number])]
            if any(one.load for one in moved) and any(one.store for one in moved):
                candidates.append((len(moved), loop))
        if candidates:
            break
    else:
        raise NoLoopError(program.definitions)
    # A loop around another that moves tiles has one group after the other.
    around = {a for _, a in candidates for _, b in candidates if b.blocks < a.blocks}
    _, loop = max((each for each in candidates if each[1] not in around), key=lambda each: each[0])
    rare = _rare(blocks, loop)

    def tile(block: Block) -> list[Instruction]:
        return [] if block.number in rare else moved_of(block)

    inner = _inside(loop, found)
    # Of the loops over what warps have left, only the first is one for all warps: it scans the
    # block. Another is for the warp that joins what other blocks have published.
    joins = sass_loops.first_of(
        blocks, loop, inner, {each.header for each in inner if _joins(blocks, each)}
    )

    def usual(block: Block) -> tuple[float, ...]:
        if block.number in rare:
            return 0, 0, 0, 0, -_length(block)
        meets = sum(one.name in ("BAR", "LDGDEPBAR") for one in block.code)
        loads = sum(one.load for one in block.code)  # narrow ones are those of a tile's edges
        straight = 1 if not any(block.number in each.blocks for each in inner) else 0.5
        return straight * len(tile(block)), meets, loads, block.number == joins, -_length(block)

    def longest(block: Block) -> tuple[float, ...]:
        *first, length = usual(block)
        # What is looked at again, after a sleep, is not waited for twice.
        skipped = block.number in rare or any(one.name == "NANOSLEEP" for one in block.code)
        return *first, 0 if skipped else sum(one.strong for one in block.code), length

    def times(inside: Loop) -> int:
        return _times(blocks, inside, program)

    path, long_path = (_path(blocks, loop, found, weigh) for weigh in (usual, longest))
    return HotPath(
        sass_loops.expanded(blocks, path, inner, times, usual),
        sass_loops.expanded(blocks, long_path, inner, times, longest),
        sass_loops.expanded(blocks, path, inner, times, usual, tile),
        _elsewhere(blocks, long_path) | _other_way(blocks, long_path),
    )


def _path(
    blocks: list[Block], loop: Loop, every: list[Loop], weigh: Callable[[Block], sass_loops.Weight]
) -> list[int]:
    return sass_loops.best_path(blocks, loop, _inside(loop, every), weigh)[1]


def _inside(loop: Loop, every: list[Loop]) -> list[Loop]:
    return [each for each in every if each.blocks < loop.blocks]


def _moved(block: Block, wide: bool, program: Program) -> list[Instruction]:
    """Accesses that count as a tile's: of 16 bytes where the program has any, otherwise those of a whole run."""
    width = 16 if wide else program.item
    moved = [one for one in block.code if (one.load or one.store) and one.width == width]
    return moved if wide or len(moved) >= program.run else []


def _most_moved(moved_of: Callable[[Block], list[Instruction]], block: Block) -> sass_loops.Weight:
    return len(moved_of(block)), -_length(block)


def _length(block: Block) -> int:
    return sum(CALLED if one.name == "CALL" and not one.jumps else 1 for one in block.code)


def _rare(blocks: list[Block], loop: Loop) -> set[int]:
    """Blocks that are not on the way of an ordinary tile.

    Those that only a comparison of floating-point numbers leads to: what is walked serially where a state may overflow.
    And those around a switch over the dtype of a state, an indirect branch: the first and the last tile of a sequence.
    """
    linear = [one for block in blocks for one in block.code]
    place = {one.address: at for at, one in enumerate(linear)}
    everything = set(sass_loops.reachable(blocks, loop.header, loop.blocks))

    def behind(*edges: tuple[int, int]) -> set[int]:
        return everything - set(sass_loops.reachable(blocks, loop.header, loop.blocks, set(edges)))

    switches = {number for number in everything if blocks[number].code[-1].name in ("BRX", "BRXU")}
    rare = behind(*((number, after) for number in switches for after in blocks[number].after))
    parted = []
    for number in everything:
        last = blocks[number].code[-1]
        if last.jumps and len(blocks[number].after) > 1:
            parts = [behind((number, after)) for after in blocks[number].after]
            parted += parts
            if any(parts) and _of_floats(linear, place[last.address]):
                rare = rare.union(*parts)
    for part in parted:
        code = [one for number in part - rare for one in blocks[number].code]
        of_tile = any(one.width == 16 and (one.load or one.store) for one in code)
        if part & switches and not of_tile and not any(one.name == "BAR" for one in code):
            rare |= part
    return rare


def _of_floats(code: list[Instruction], at: int, depth: int = 6) -> bool:
    """Whether an instruction waits for a comparison of floating-point numbers, as far as a short look back shows."""
    wanted = set(sass.written_and_read(code[at])[1])
    if code[at].jumps:
        wanted = {name for name in wanted if "P" in name}
    if code[at].name == "B2R":
        wanted.add("BAR")  # the result of a barrier's vote
    for before in range(at - 1, max(-1, at - 80), -1):
        one = code[before]
        if one.name == "BAR" and "BAR" in wanted:
            wanted |= sass.written_and_read(one)[1]
            wanted.discard("BAR")
        elif hit := sass.written_and_read(one)[0] & wanted:
            if one.name in ("FSETP", "DSETP"):
                return True
            passes_on = one.name in ("PLOP3", "SEL", "B2R", "VOTE", "ISETP", "LOP3", "P2R")
            if depth and passes_on and _of_floats(code, before, depth - 1):
                return True
            if not one.predicate:
                wanted -= hit
    return False


def _elsewhere(blocks: list[Block], path: list[int]) -> frozenset[int]:
    """Looks at what others publish that a warp can pass by on its way to the next one before the same barrier.

    One warp takes either: their waits overlap. Of two that no warp can part, the second begins when the first is over.
    """
    dominators = sass_loops.dominators(blocks)
    found: set[int] = set()
    pending: list[tuple[int, Instruction]] = []
    for number in path:
        for one in blocks[number].code:
            if one.name == "BAR":
                pending.clear()
            elif one.strong and one.name in ("LD", "LDG"):
                found |= {
                    before.address
                    for block, before in pending
                    if block != number and block not in dominators[number]
                }
                pending.append((number, one))
    return frozenset(found)


def _other_way(blocks: list[Block], path: list[int]) -> frozenset[int]:
    """Loads whose predicate is the opposite of that of a 16-byte access beside them."""
    found = set()
    for number in path:
        code = blocks[number].code
        wide = {one.predicate for one in code if one.width == 16 and (one.load or one.store)}
        opposite = {
            guard.removeprefix("!") if "!" in guard else f"!{guard}" for guard in wide if guard
        }
        found |= {one.address for one in code if one.load and one.predicate in opposite - wide}
    return frozenset(found)


def _times(blocks: list[Block], loop: Loop, program: Program) -> int:
    """How often a loop inside a tile runs.

    Once where all warps meet in it, or others are waited for, unless a constant says more; a loop over what the warps
    of a block have left, for half of the others.
    """
    if _joins(blocks, loop):
        return max(1, (program.warps - 1) // 2)
    code = _code(blocks, loop)
    return 1 if any(one.name == "BAR" for one in code) else _bound(blocks, loop, code) or 1


def _joins(blocks: list[Block], loop: Loop) -> bool:
    """Whether a loop goes over what the warps of a block have left in shared memory."""
    code = _code(blocks, loop)
    others = any(one.name in ("BAR", "LDC", "STG", "LDGSTS") or one.strong for one in code)
    arithmetic = any(one.name in ("FFMA", "DFMA", "FADD", "DADD") for one in code)
    read = any(one.name == "LDS" for one in code)
    return read and arithmetic and not others and _bound(blocks, loop, code) is None


def _code(blocks: list[Block], loop: Loop) -> list[Instruction]:
    return [one for number in sorted(loop.blocks) for one in blocks[number].code]


def _bound(blocks: list[Block], loop: Loop, code: list[Instruction]) -> int | None:
    """The rounds of a loop that counts up to a constant from zero, or nearly."""
    steps: dict[str, int] = {}
    for one in code:
        if one.name in ("VIADD", "IADD3", "UIADD3", "IADD") and not one.predicate:
            first, *rest = one.operands
            amounts = [part for part in rest if re.fullmatch(r"0x[0-9a-f]+", part)]
            if first in [part.split(".")[0] for part in rest] and len(amounts) == 1:
                steps[first] = int(amounts[0], 16)
    for latch in loop.latches:
        waited = sass.written_and_read(blocks[latch].code[-1])[1]
        for one in reversed(code):
            if one.name in ("ISETP", "UISETP") and sass.written_and_read(one)[0] & waited:
                for left, right in itertools.pairwise(one.operands):
                    register = left.split(".")[0]
                    if register in steps and re.fullmatch(r"0x[0-9a-f]+", right):
                        rounds = int(right, 16) // steps[register]
                        return rounds if 1 <= rounds <= MOST_ROUNDS else None
    return None
