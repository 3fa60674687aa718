"""What a GPU makes of machine code, by a model: how long a hot path takes, the share of a copy's bandwidth.

docs/gpu-model.md describes it and says where its numbers come from. cuda_sass.py makes the table.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import sass
from hot_path import HotPath, Program
from sass import Instruction

# ---- the model's numbers, but for two of hot_path.py; docs/gpu-model.md says where they come from


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
RECORD_READ = 0.25  # what a byte read from L2 costs beside one of DRAM

_LATENCIES = {
    **dict.fromkeys(("LDS", "LDSM"), SHARED),
    **dict.fromkeys(("SHFL", "VOTE", "VOTEU", "B2R", "MATCH", "REDUX"), SHUFFLE),
    **dict.fromkeys(("LDC", "LDCU", "S2R", "S2UR", "R2UR"), CONSTANT),
    **dict.fromkeys(("ULDC", "CS2R"), UNIFORM),
    **dict.fromkeys(("MUFU", "F2F", "F2I", "I2F", "FCHK", "POPC", "FLO", "DFMA", "DADD", "DMUL"), SPECIAL),
}  # fmt: skip

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
        if 0 < pile < program.tiles:
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
    if not program.bundle:  # carriers read a partial once, and nobody joins any
        return 2 * own + RECORD_READ * own
    joined, units = 0.0, program.tiles
    for _ in range(3):  # tiles, bundles, stacks
        joined += (min(units, program.bundle) - 1) / 2
        units = math.ceil(units / program.bundle)
    return 2 * own + RECORD_READ * own * joined
