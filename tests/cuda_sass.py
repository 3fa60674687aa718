"""What the machine code of the benchmark's programs promises: occupancy, bytes in flight, widths, instructions.

    python tests/cuda_sass.py [--record FILE] [--print] [--architectures 80,90,100]

From them a model predicts each program's share of the bandwidth of a copy (docs/gpu-model.md). It needs NVRTC and
nvdisasm, and no GPU. The table is kept in bench/results/cuda-sass.json; test_cuda_sass.py compares it with the code.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sass
from sass import Block, Instruction, Loop

from scanlib import compiler, gpu, native
from scanlib.problem import DTYPES

if TYPE_CHECKING:
    from bench.shapes import Case

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "cuda-sass.json"
LOG2 = 26
ARRAYS = ("float32", "bfloat16")
KERNEL = "scanlib_kernel"
KERNELS, LAYOUTS = ("walk", "look-back", "sums"), ("columns", "rows", "narrow")

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
MEMORY, L2 = 1100, 700  # a load under load; a round trip to what another block has published
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

# ---- problems and their programs


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


def programs(log2: int = LOG2) -> Iterator[Program]:
    """The six shapes, dense and contiguous, forward and backward."""
    from bench.shapes import shapes

    for dtype in ARRAYS:
        for case in shapes(log2):
            steps = [math.prod(case.shape[axis + 1 :]) for axis in range(len(case.shape))]
            for backward in (False, True):
                names = ("a", "h", "grad_h", "grad_a", "grad_x") if backward else ("a", "x", "h")
                operand = (DTYPES[dtype][0], steps)
                problem = native.prepare(case.shape, case.axis, dict.fromkeys(names, operand))
                (definitions,) = gpu.programs(problem)  # nothing is summed, so one launch
                yield Program(case, dtype, backward, definitions, gpu.scratch_bytes(problem))


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

    def usual(block: Block) -> tuple[float, ...]:
        if block.number in rare:
            return 0, 0, 0, -_length(block)
        barriers = sum(one.name == "BAR" for one in block.code)
        loads = sum(one.load for one in block.code)  # narrow ones are those of a tile's edges
        return len(tile(block)), barriers, loads, -_length(block)

    def longest(block: Block) -> tuple[float, ...]:
        *first, length = usual(block)
        # What is looked at again, after a sleep, is not waited for twice.
        skipped = block.number in rare or any(one.name == "NANOSLEEP" for one in block.code)
        return *first, 0 if skipped else sum(one.strong for one in block.code), length

    def times(inside: Loop) -> int:
        return _times(blocks, inside, program)

    inner = _inside(loop, found)
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
    of a block have left, half as often as there are warps.
    """
    code = [one for number in sorted(loop.blocks) for one in blocks[number].code]
    if any(one.name == "BAR" for one in code):
        return 1
    if (bound := _bound(blocks, loop, code)) is not None:
        return bound
    return 1 if any(one.strong for one in code) else max(1, program.warps // 2)


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


# ---- one row of the table


@dataclass(frozen=True)
class Row:
    sm: int
    shape: str
    direction: str
    dtype: str
    kernel: str
    layout: str
    threads: int
    width: int
    run: int
    bundle: int
    registers: int
    shared: int
    blocks: int  # resident, a multiprocessor
    in_flight: int  # bytes of a tile's loads, all resident blocks together
    loads: dict[str, int]  # bytes a thread -> accesses a tile
    stores: dict[str, int]
    instructions: float  # of a warp for each element of a thread
    cycles: int  # of a block for a tile
    share: float  # of the bandwidth of a copy
    bound: str
    bounds: dict[str, float]


def resident(registers: int, shared: int, threads: int, machine: Machine) -> int:
    """Blocks that fit one multiprocessor."""
    warps = threads // 32
    of_warp = math.ceil(registers * 32 / REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // of_warp // SCHEDULERS * SCHEDULERS // warps
    by_shared = machine.shared // max(1, math.ceil((shared + machine.kept) / 128) * 128)
    return min(by_registers, by_shared, THREADS // threads, BLOCKS)


def row_of(program: Program, architecture: int) -> Row:
    machine = MACHINES[architecture]
    registers, shared, path = read(program, architecture)
    stored = sum(one.width for one in path.moved if one.store)
    # Of one round of the loop, which the compiler may have unrolled.
    tiles = max(1, round(stored / (program.run * program.item * program.arrays[1])))

    loads = _widths([one for one in path.moved if one.load], tiles)
    stores = _widths([one for one in path.moved if one.store], tiles)
    # Copies of what lies beside a tile are few threads', and counted as all threads'.
    elements = program.run * program.item * program.arrays[0]
    loaded = min(elements, sum(int(width) * count for width, count in loads.items()))
    blocks = resident(registers, shared, program.given["THREADS"], machine)
    timing = timed(path, program.warps)
    period = timing.period / tiles
    in_flight = blocks * program.given["THREADS"] * loaded
    instructions = len(path.usual) / tiles / program.run
    bounds = predicted(program, machine, blocks, in_flight, instructions, period, timing.chain)
    bound = min(bounds, key=lambda name: bounds[name])
    given = program.given
    return Row(
        architecture,
        program.case.name,
        program.direction,
        program.dtype,
        program.kernel,
        LAYOUTS[given["LAYOUT"]],
        given["THREADS"],
        given["WIDTH"],
        program.run,
        program.bundle,
        registers,
        shared,
        blocks,
        in_flight,
        loads,
        stores,
        round(instructions, 1),
        round(period),
        round(bounds[bound], 3),
        bound,
        {name: round(value, 3) for name, value in bounds.items()},
    )


def _widths(moved: list[Instruction], tiles: int) -> dict[str, int]:
    counted = Counter(one.width for one in moved)
    return {str(width): round(count / tiles) for width, count in sorted(counted.items())}


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
        late = 0.0
        if program.tiles > program.bundle:  # the bundle before is published a trip after its tiles
            late = sum(max(0.0, L2 - spacing * i) for i in range(program.bundle)) / program.bundle
        bounds["latency"] = blocks * tile / (period + late) / rate
        stack = program.bundle**2
        if program.tiles > stack:
            bounds["chain"] = stack * spacing / (chain + L2)
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
    joined = (min(program.tiles, program.bundle) - 1) / 2
    if program.tiles > program.bundle:
        joined += (min(math.ceil(program.tiles / program.bundle), program.bundle) - 1) / 2
    return 2 * own + RECORD_READ * own * joined


_read: dict[tuple[str, int], tuple[int, int, HotPath]] = {}


def read(program: Program, architecture: int) -> tuple[int, int, HotPath]:
    """Registers of a thread, shared memory of a block, and the hot path: the same for all problems of one program."""
    key = program.definitions, architecture
    if key not in _read:
        cubin = compiler.program(*key)
        blocks = sass.parse(sass.listing(cubin), KERNEL)
        _read[key] = sass.registers(cubin), sass.shared(cubin), hot_path(blocks, program)
    return _read[key]


# ---- the table


def table(architectures: list[int], log2: int = LOG2) -> list[Row]:
    return [row_of(program, sm) for sm in architectures for program in programs(log2)]


# What tells a row from others, and what has to stay as it is, whatever compiler made the code.
KEY = ("sm", "shape", "direction", "dtype")
EXACT = (
    "kernel",
    "layout",
    "threads",
    "width",
    "run",
    "bundle",
    "blocks",
    "in_flight",
    "loads",
    "stores",
)
MORE_INSTRUCTIONS, LESS_SHARE, GOAL = (
    0.1,
    0.03,
    0.85,
)  # what another release of the compiler may change


def differences(rows: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[str]:
    """Where rows are worse than, or not, what the table says of them."""
    found = []
    for row in rows:
        name = " ".join(str(row[key]) for key in KEY)
        before = next((each for each in kept if all(each[key] == row[key] for key in KEY)), None)
        if before is None:
            found.append(f"{name}: not in the table")
            continue
        found += [
            f"{name}: {key} is {row[key]}, was {before[key]}"
            for key in EXACT
            if row[key] != before[key]
        ]
        if abs(row["instructions"] / before["instructions"] - 1) > MORE_INSTRUCTIONS:
            found.append(
                f"{name}: {row['instructions']} instructions an element, was {before['instructions']}"
            )
        least = before["share"] - LESS_SHARE
        if before["share"] >= GOAL:
            least = max(least, GOAL)
        if row["share"] < least:
            found.append(f"{name}: share {row['share']} by {row['bound']}, was {before['share']}")
    return found


HEADS = [
    *("no", "sm", "shape/axis", "direction", "dtype", "kernel", "threads/width/run/bundle"),
    *("registers", "blocks", "KiB in flight", "loads", "stores", "instructions", "cycles"),
    *("share", "bound by", "bounds below 1"),
]


def printed(rows: list[Row]) -> str:
    lines = [HEADS]
    for number, row in enumerate(rows):
        # fmt: off
        lines.append([
            str(number), str(row.sm), row.shape.replace(" axis ", "/").replace(" ", ""), row.direction, row.dtype,
            f"{row.kernel} {row.layout}", f"{row.threads}/{row.width}/{row.run}/{row.bundle}",
            str(row.registers), str(row.blocks), f"{row.in_flight / 1024:.0f}",
            *(" ".join(f"{n}x{w}" for w, n in widths.items()) for widths in (row.loads, row.stores)),
            f"{row.instructions:.1f}", str(row.cycles), f"{row.share:.2f}", row.bound,
            " ".join(f"{name}={value:.2f}" for name, value in row.bounds.items() if value < 1),
        ])
        # fmt: on
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def explained(architecture: int, program: Program) -> str:
    """What holds up the warp that a tile waits for: barriers, accesses to what blocks publish, stalls."""
    _, _, path = read(program, architecture)
    steps = traced(path.longest, program.warps, path.elsewhere)
    lines = [program.definitions, "cycle  stalled  address  instruction"]
    for one, began, stalled in steps:
        if one.name in ("BAR", "DEPBAR", "LDGDEPBAR") or one.strong or stalled >= SHARED / 2:
            guard = f"@{one.predicate} " if one.predicate else ""
            text = f"{guard}{one.opcode} {', '.join(one.operands)}"
            lines.append(f"{began - steps[0].began:5.0f}  {stalled:7.0f}  {one.address:7x}  {text}")
    usual, longest = len(path.usual), len(path.longest)
    return "\n".join(
        [
            *lines,
            f"{timed(path, program.warps).period:5.0f}  of {longest} instructions; usually {usual}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file to write as JSON")
    parser.add_argument("--print", action="store_true", help="the table, also when it is recorded")
    parser.add_argument("--architectures", default=",".join(map(str, MACHINES)))
    parser.add_argument(
        "--explain", type=int, help="where the cycles of one row's tile go: its number"
    )
    options = parser.parse_args()
    if missing := compiler.unavailable() or sass.unavailable():
        print(missing, file=sys.stderr)
        return 2
    sys.path.append(str(ROOT))  # for bench
    began = time.monotonic()
    architectures = [int(part) for part in options.architectures.split(",")]
    if options.explain is not None:
        print(explained(*list(itertools.product(architectures, programs()))[options.explain]))
        return 0
    rows = table(architectures)
    if options.record:
        release = ".".join(map(str, compiler._nvrtc()[1]))
        lines = ",\n  ".join(json.dumps(asdict(row)) for row in rows)
        options.record.write_text(f'{{"nvrtc": "{release}", "programs": [\n  {lines}\n]}}\n')
    if options.print or not options.record:
        print(printed(rows))
    print(f"{len(rows)} rows, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
