"""What a GPU makes of machine code, by a model: its hot path, how long that takes, the share of a copy's bandwidth.

docs/gpu-model.md describes it and says where its numbers come from. cuda_sass.py makes the table.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import sass
from sass import Block, Instruction, Loop

if TYPE_CHECKING:
    from bench.core.shapes import Case

# ---- the model's numbers, all of them; docs/gpu-model.md says where they come from


class Machine(NamedTuple):
    """A GPU as the model sees it."""

    name: str
    multiprocessors: int
    clock: float  # GHz
    copy: float  # bytes a nanosecond, read and written, of a device-to-device copy
    needed: int  # bytes in flight a multiprocessor at which a copy is as fast as it gets
    shared: int  # bytes of shared memory a multiprocessor
    kept: int  # bytes of it that the system keeps of each block's, where the cubin does not count them


MACHINES = {
    80: Machine("A100", 108, 1.41, 1550, 16 << 10, 164 << 10, 1024),
    90: Machine("H100", 132, 1.70, 3000, 32 << 10, 228 << 10, 0),
    100: Machine("B200", 148, 1.80, 7000, 64 << 10, 228 << 10, 0),
}
# Of each multiprocessor; registers are given to a warp in units.
THREADS, BLOCKS, REGISTERS, REGISTER_UNIT = 2048, 32, 65_536, 256
SCHEDULERS, EFFICIENCY = 4, 0.8  # warp instructions a cycle, and the part of them that is reached

# Cycles until a result can be used.
ALU, UNIFORM, SPECIAL, SHARED, SHUFFLE, CONSTANT = 4, 12, 20, 30, 25, 30
MEMORY, L2 = (
    1100,
    2000,
)  # a load under load; a round trip to what another block has published (docs/gpu-log.md)
BARRIER, SLEEP = 35, 70
MOST_ROUNDS = 64  # of a loop inside a tile; greater constants are no count
CALLED = 100  # instructions of a function that is called: 64-bit divisions, which hot paths avoid
RECORD_READ = 0.25  # what a byte read from L2 costs beside one of DRAM

_LATENCIES = {
    **dict.fromkeys(("LDS", "LDSM"), SHARED),
    **dict.fromkeys(("SHFL", "VOTE", "VOTEU", "B2R", "MATCH", "REDUX"), SHUFFLE),
    **dict.fromkeys(("LDC", "LDCU", "S2R", "S2UR", "R2UR"), CONSTANT),
    **dict.fromkeys(("ULDC", "CS2R"), UNIFORM),
    **dict.fromkeys(("MUFU", "F2F", "F2I", "I2F", "FCHK", "POPC", "FLO", "DFMA", "DADD", "DMUL"), SPECIAL),
}  # fmt: skip

# ---- a program

KERNELS = ("walk", "look-back", "sums")


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
        return self.given.get("BUNDLE", 1)

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
    found = sass.loops(blocks)
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
    joins = sass.first_of(
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
        sass.expanded(blocks, path, inner, times, usual),
        sass.expanded(blocks, long_path, inner, times, longest),
        sass.expanded(blocks, path, inner, times, usual, tile),
        _elsewhere(blocks, long_path) | _other_way(blocks, long_path),
    )


def _path(
    blocks: list[Block], loop: Loop, every: list[Loop], weigh: Callable[[Block], sass.Weight]
) -> list[int]:
    return sass.best_path(blocks, loop, _inside(loop, every), weigh)[1]


def _inside(loop: Loop, every: list[Loop]) -> list[Loop]:
    return [each for each in every if each.blocks < loop.blocks]


def _moved(block: Block, wide: bool, program: Program) -> list[Instruction]:
    """Accesses that count as a tile's: of 16 bytes where the program has any, otherwise those of a whole run."""
    width = 16 if wide else program.item
    moved = [one for one in block.code if (one.load or one.store) and one.width == width]
    return moved if wide or len(moved) >= program.run else []


def _most_moved(moved_of: Callable[[Block], list[Instruction]], block: Block) -> sass.Weight:
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
    everything = set(sass.reachable(blocks, loop.header, loop.blocks))

    def behind(*edges: tuple[int, int]) -> set[int]:
        return everything - set(sass.reachable(blocks, loop.header, loop.blocks, set(edges)))

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
    dominators = sass.dominators(blocks)
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


# ---- how long it takes


class Step(NamedTuple):
    instruction: Instruction
    began: float  # cycle
    stalled: float  # cycles that it waited beyond its turn


ROUNDS = 4  # the last is steady: what a tile leaves to its next is there


def traced(
    code: list[Instruction], warps: int, elsewhere: frozenset[int] = frozenset()
) -> list[Step]:
    """One warp in order, its turn every warps / 4 cycles; each instruction waits for what it reads. The last round."""
    turn = max(1.0, warps / SCHEDULERS)
    ready: dict[str, float] = {}
    copies: list[float] = []
    copying = stored = now = 0.0
    steps: list[Step] = []
    for _ in range(ROUNDS):
        steps.clear()
        for one in code:
            written, waits = sass.written_and_read(one)
            before = now + turn
            now = max([before, *(ready.get(name, 0.0) for name in waits | written)])
            latency: float = _LATENCIES.get(one.name, ALU)
            if one.name == "LDGSTS":
                copying = max(copying, now + MEMORY)
            elif one.name == "LDGDEPBAR":
                copies.append(copying)
            elif one.name == "DEPBAR" and one.operands:
                left = int(one.operands[-1], 16) if one.operands[-1].startswith("0x") else 0
                now = max([now, *copies[: max(0, len(copies) - left)]])
            elif one.address in elsewhere:
                pass  # it is not there, or a wait that begins later ends later
            elif one.name in ("ATOMG", "ATOM") or (one.strong and one.name in ("LD", "LDG")):
                latency = L2
            elif one.load:
                latency = MEMORY
            elif one.store:
                stored = now + MEMORY
            elif one.name == "MEMBAR" and one.bits & {"GPU", "SYS"}:
                now = max(now + L2, stored)
            elif one.name == "BAR":
                now += BARRIER
            elif one.name == "NANOSLEEP":
                now += SLEEP
            steps.append(Step(one, now, now - before))
            for name in written:
                ready[name] = now + latency
    return steps


class Timing(NamedTuple):
    period: float  # cycles from one tile of a block to its next
    chain: float  # cycles from the last record read to the last one published


def timed(path: HotPath, warps: int) -> Timing:
    steps = traced(path.longest, warps, path.elsewhere)
    first, last = steps[0], steps[-1]
    period = last.began - first.began + first.stalled + max(1.0, warps / SCHEDULERS)
    of_others = [step for step in steps if step.instruction.strong]
    read = [step.began + L2 for step in of_others if step.instruction.name in ("LD", "LDG")]
    published = [step.began for step in of_others if step.instruction.name in ("ST", "STG")]
    chain = max(published) - max(read) if read and published else 0.0
    return Timing(period, max(0.0, chain))


# ---- what binds


def resident(registers: int, shared: int, threads: int, machine: Machine) -> int:
    """Blocks that fit one multiprocessor."""
    warps = threads // 32
    of_warp = math.ceil(registers * 32 / REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // of_warp // SCHEDULERS * SCHEDULERS // warps
    by_shared = machine.shared // max(1, math.ceil((shared + machine.kept) / 128) * 128)
    return min(by_registers, by_shared, THREADS // threads, BLOCKS)


def predicted(
    program: Program,
    machine: Machine,
    blocks: int,
    in_flight: float,
    instructions: float,
    period: float,
    chain: float,
) -> dict[str, float]:
    """What each bound leaves of a copy's bandwidth."""
    rate = machine.copy / machine.clock / machine.multiprocessors  # bytes a cycle, a multiprocessor
    tile, looks_back = program.tile_bytes, program.kernel == "look-back"
    issue = program.warps * program.run * instructions / (SCHEDULERS * EFFICIENCY)  # cycles a tile
    bounds = {"in flight": in_flight / machine.needed, "issue": tile / issue / rate}
    if looks_back:
        spacing = program.groups * tile / rate / machine.multiprocessors  # of a sequence's tiles
        bounds["latency"] = blocks * tile / period / rate
        pile = program.bundle**3
        if program.tiles > pile:
            bounds["chain"] = pile * spacing / (chain + L2)
    else:
        bounds["latency"] = _walked(program, machine, blocks, tile / period / rate)
    bounds["copy"] = tile / (tile + _records(program))
    return {name: min(1.0, value) for name, value in bounds.items()}


def _walked(program: Program, machine: Machine, blocks: int, each: float) -> float:
    """Blocks that start together end together: the last few leave most of the machine idle."""
    slots = machine.multiprocessors * blocks
    full, rest = divmod(program.groups, slots)
    fair = slots / machine.multiprocessors
    took = full * fair / min(1.0, blocks * each)
    if rest:
        left = rest / machine.multiprocessors
        took += left / min(1.0, left * each)
    return program.groups / machine.multiprocessors / took


def _records(program: Program) -> float:
    """Bytes that a tile adds: its records zeroed and written, those of others read."""
    if program.kernel != "look-back":
        return 0.0
    own = program.scratch / (program.tiles * program.groups)
    joined, units = 0.0, program.tiles
    for _ in range(3):  # tiles, bundles, stacks
        joined += (min(units, program.bundle) - 1) / 2
        units = math.ceil(units / program.bundle)
    return 2 * own + RECORD_READ * own * joined
