"""The model of a GPU on made-up machine code: what is on the hot path, how long it takes, what binds."""

from __future__ import annotations

import gpu_model
import pytest
from sass_cases import LOAD, LOOP, blocks_of, names, path_of, toy

# ---- paths


def test_both_branches_are_there_and_the_wide_one_is_hot() -> None:
    load = f"""
  @P0 BRA `(.L_x_1)
  LDG.E R4, desc[UR4][R2.64]
  BRA `(.L_x_2)
.L_x_1:
  NOP
  {LOAD}
.L_x_2:"""
    path = path_of(LOOP.format(load=load, middle="NOP"))
    assert names(path.moved) == ["LDG.E.128", "STG.E.128"]
    assert "LDG.E" not in names(path.usual)
    assert len(path.usual) == 8


def test_an_access_is_not_waited_for_whose_predicate_is_that_of_the_other_way() -> None:
    narrow = "@!P2 LDG.E.U16 R20, desc[UR4][R2.64]\n  @!P2 STS.U16 [R21], R20\n  FADD R22, R20, R20"
    load = f"{LOAD}\n  @P2 LDG.E.128 R24, desc[UR4][R2.64]\n  FADD R28, R24, R24\n  {narrow}"
    either = path_of(LOOP.format(load=load, middle="NOP"))
    both = path_of(LOOP.format(load=load.replace("@!P2", "@!P3"), middle="NOP"))
    assert len(either.elsewhere) == 1
    more = gpu_model.timed(both, 4).period - gpu_model.timed(either, 4).period
    assert gpu_model.MEMORY - 50 < more < gpu_model.MEMORY


def test_inner_loops_count_as_often_as_they_run() -> None:
    middle = """
  MOV R9, RZ
.L_x_1:
  {read}
  FADD R4, R4, R9
  IADD3 R9, R9, 0x2, RZ
  ISETP.NE.AND P0, PT, R9, {bound}, PT
  @P0 BRA `(.L_x_1)"""
    # What other warps have left: of eight, a warp has three before it.
    for bound, read, rounds in (("0x6", "NOP", 3), ("R20", "LDS R9, [R21]", 3), ("R20", "NOP", 1)):
        text = LOOP.format(load=LOAD, middle=middle.format(bound=bound, read=read))
        path = path_of(text, threads=256)
        assert names(path.usual).count("FADD") == rounds + 1


def test_what_all_warps_but_the_first_do_counts_and_what_one_does_does_not() -> None:
    join = """
  @P{0} BRA `(.L_x_{0}2)
.L_x_{0}1:
  LDS R9, [R21]
  FADD R{0}, R4, R9
  ISETP.NE.AND P0, PT, R9, R20, PT
  @P0 BRA `(.L_x_{0}1)
.L_x_{0}2:
  BAR.SYNC.DEFER_BLOCKING 0x0"""
    path = path_of(LOOP.format(load=LOAD, middle=join.format(5) + join.format(6)), threads=256)
    adds = [one.operands[0] for one in path.usual if one.name == "FADD"]
    assert (adds.count("R5"), adds.count("R6")) == (3, 0)


def test_copies_that_are_started_are_waited_for() -> None:
    """Also where the shorter way is around the wait, which only the first rounds go."""
    wait = "@P4 BRA `(.L_x_7)\n  LDGDEPBAR\n  DEPBAR.LE SB0, 0x0\n  LDS.128 R4, [R10]\n.L_x_7:"
    start = "LDGSTS.E.BYPASS.128 [R10], desc[UR4][R2.64]"
    assert "LDGDEPBAR" in names(path_of(LOOP.format(load=wait, middle=start)).usual)


def test_straight_code_is_preferred_to_a_loop_with_the_same_accesses() -> None:
    load = f"""
  @P0 BRA `(.L_x_1)
  {LOAD}
  FADD R20, R20, R20
  FADD R20, R20, R20
  FADD R20, R20, R20
  BRA `(.L_x_2)
.L_x_1:
  {LOAD}
  @P2 BRA `(.L_x_1)
.L_x_2:"""
    assert names(path_of(LOOP.format(load=load, middle="NOP")).usual).count("FADD") == 4


POLL = """
  @P{skip} BRA `(.L_x_{end})
.L_x_{start}:
  LDG.E.128.STRONG.GPU R{to}, desc[UR4][R{at}.64]
  ISETP.NE.AND P0, PT, R{to}, RZ, PT
  @P0 BRA `(.L_x_{end})
  NANOSLEEP 0x28
  BRA `(.L_x_{start})
.L_x_{end}:"""
AGAIN = """
  LDG.E.128.STRONG.GPU R12, desc[UR4][R30.64]
  ISETP.NE.AND P0, PT, R12, RZ, PT
  @P0 BRA `(.L_x_2)
.L_x_1:
  NANOSLEEP 0x28
  LDG.E.128.STRONG.GPU R12, desc[UR4][R30.64]
  ISETP.NE.AND P0, PT, R12, RZ, PT
  @!P0 BRA `(.L_x_1)
.L_x_2:"""
FIRST = POLL.format(skip=2, start=1, end=2, to=12, at=30)
SECOND = POLL.format(skip=3, start=3, end=4, to=16, at=32)


@pytest.mark.parametrize("poll", [FIRST, AGAIN])
def test_what_other_blocks_publish_is_waited_for_once(poll: str) -> None:
    alone = path_of(LOOP.format(load=LOAD, middle="NOP"))
    one = path_of(LOOP.format(load=LOAD, middle=poll + "\n  NOP"))
    assert names(one.longest).count("LDG.E.128.STRONG.GPU") == 1
    assert "NANOSLEEP" not in names(one.longest)
    if poll == FIRST:
        assert "LDG.E.128.STRONG.GPU" not in names(one.usual)
    more = gpu_model.timed(one, 4).period - gpu_model.timed(alone, 4).period
    assert gpu_model.L2 <= more < gpu_model.L2 + 20


@pytest.mark.parametrize("between", ["NOP", "BAR.SYNC.DEFER_BLOCKING 0x0"])
def test_waits_of_different_warps_overlap_up_to_a_barrier(between: str) -> None:
    middle = f"{FIRST}\n  {between}{SECOND}\n  BAR.SYNC.DEFER_BLOCKING 0x0"
    path = path_of(LOOP.format(load=LOAD, middle=middle))
    period = gpu_model.timed(path, 4).period
    trips = 1 if between == "NOP" else 2
    assert len(path.elsewhere) == 2 - trips
    assert trips * gpu_model.L2 < period - gpu_model.MEMORY < (trips + 0.5) * gpu_model.L2


def test_of_two_waits_that_no_warp_can_part_one_follows_the_other() -> None:
    flag = FIRST.replace("@P2 BRA `(.L_x_2)", "NOP")
    middle = f"{flag}\n  LDG.E.STRONG.GPU R20, desc[UR4][R32.64]\n  FADD R21, R20, R20"
    period = gpu_model.timed(path_of(LOOP.format(load=LOAD, middle=middle)), 4).period
    assert period - gpu_model.MEMORY > 2 * gpu_model.L2


def test_serial_walks_and_dtype_switches_are_not_hot() -> None:
    serial = """
  FSETP.GTU.AND P0, PT, |R4|, R5, PT
  BAR.RED.OR.DEFER_BLOCKING 0x0, P0
  B2R.RESULT RZ, P0
  @!P0 BRA `(.L_x_1)
  BAR.SYNC.DEFER_BLOCKING 0x0
  LDG.E.STRONG.GPU R20, desc[UR4][R32.64]
.L_x_1:"""
    switch = """
  @P2 BRA `(.L_x_5)
  BRX R28 -0x60 (*"BRANCH_TARGETS .L_x_3, .L_x_4"*)
.L_x_3:
  STG.E.128 desc[UR4][R40.64], R4
  BRA `(.L_x_5)
.L_x_4:
  LDG.E R41, desc[UR4][R40.64]
.L_x_5:"""
    path = path_of(LOOP.format(load=LOAD, middle=serial + switch))
    assert names(path.moved) == ["LDG.E.128", "STG.E.128"]
    for code in (path.usual, path.longest):
        assert names(code).count("BAR.SYNC.DEFER_BLOCKING") == 1
        assert not {"LDG.E.STRONG.GPU", "BRX", "LDG.E"} & set(names(code))


@pytest.mark.parametrize(
    ("jump", "after"),
    [
        ("@P3 CALL.REL.NOINC `(.L_x_0)", [1, 2]),
        ("CALL.REL.NOINC `(.L_x_0)", [1]),
        ("BRA.U !UP0, `(.L_x_0)", [1, 2]),
        ("BRA P3, `(.L_x_0)", [1, 2]),
        ("@PT BRA `(.L_x_0)", [1]),
        ("@!P3 EXIT", [2]),
        ('BRX R28 -0x60 (*"BRANCH_TARGETS .L_x_0, .L_x_1"*)', [1, 3]),
    ],
)
def test_where_a_block_goes_on(jump: str, after: list[int]) -> None:
    text = f"NOP\n.L_x_0:\n{jump}\nCALL.REL.NOINC `($divide)\nNOP\n.L_x_1:\nEXIT"
    blocks = blocks_of(text)
    assert [block.after for block in blocks] == [[1], after, [3], []]


# ---- the model


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [
        (95, 0, 256, 2),
        (95, 0, 96, 6),
        (80, 0, 256, 3),
        (64, 0, 256, 4),
        (32, 0, 128, 16),
        (16, 0, 32, 32),
        (32, 60_000, 128, 3),
    ],
)
def test_resident_blocks(registers: int, shared: int, threads: int, blocks: int) -> None:
    assert gpu_model.resident(registers, shared, threads, gpu_model.MACHINES[90]) == blocks


def test_loads_ahead_hide_their_latency() -> None:
    """The same additions between two tiles, behind which loads are hidden that were started before them."""
    additions, latency = 300, gpu_model.MEMORY
    work = "  FADD R4, R4, R6\n" * additions
    late = path_of(LOOP.format(load=LOAD, middle=work))
    wait = "LDGDEPBAR\n  DEPBAR.LE SB0, 0x0\n  LDS.128 R4, [R10]"
    start = "LDGSTS.E.BYPASS.128 [R10], desc[UR4][R2.64]\n"
    ahead = path_of(LOOP.format(load=wait, middle=start + work))
    soon = path_of(LOOP.format(load=wait, middle=start))
    busy = additions * gpu_model.ALU
    assert busy > latency
    assert gpu_model.timed(late, 4).period > busy + latency
    assert busy < gpu_model.timed(ahead, 4).period < busy + latency / 5
    assert latency < gpu_model.timed(soon, 4).period < latency + 150


def test_bounds_of_a_program() -> None:
    machine = gpu_model.MACHINES[90]
    bounds = gpu_model.predicted(toy(), machine, 8, machine.needed / 2, 1.0, 1e4, 0.0)
    assert bounds["in flight"] == 0.5
    assert bounds["issue"] == bounds["copy"] == 1
    assert 0 < bounds["latency"] < 0.1
