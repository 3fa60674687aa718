"""Gates as a source and a sink of the CUDA kernels, emulated: against the CPU's, and through the cells' own way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import emulated
import numpy as np
import pytest
from helpers import rng_for

from scanlib import gpu, native
from scanlib.call import DTYPES
from scanlib.cells.gates import Gated, Gates, outputs, states
from scanlib.cells.starts import Starts
from scanlib.gates import AFTER, BEFORE, CANDIDATES, GATED, GateForm
from scanlib.plan import prepare_gates

#: shape of the rows, time's axis, and the width of a gate
SIZES = [((50, 3), 0, 12), ((2, 40), 1, 5), ((70,), 0, 32), ((3,), 0, 200), ((1, 9, 2), 1, 1)]
TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-12}


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with emulated.tuned(**emulated.SMALL):
        yield


def form_for(
    reading: int, own_input: bool, candidate: int, width: int, complement: bool, gap: int = 1
) -> GateForm:
    """Blocks in an order of their own, so many columns apart: with 4 they are moved in words of 16 bytes."""
    names = ["candidate", *["output"] * (reading == GATED), "decay", *["input"] * own_input]
    at = {name: gap + place * (width + gap) for place, name in enumerate(names)}
    places = (at["decay"], at.get("input", -1), at.get("output", -1), at["candidate"])
    return GateForm(width, *places, candidate, reading, int(complement))


def draw(
    form: GateForm, size: Any, dtype: str, with_states: bool, with_reset: bool
) -> dict[str, Any]:
    shape, axis, _ = size
    rng = rng_for(form, shape, dtype)
    places = [place for place in form[1:5] if place >= 0]
    row = max(places) + form.width + min(places)
    full = (*shape, form.width)
    state = (*shape[:axis], *shape[axis + 1 :], form.width)
    drawn = {"a": 2 * rng.standard_normal((*shape, row)), "grad_h": rng.standard_normal(full)}
    if with_states:
        drawn |= {role: rng.standard_normal(state) for role in ("h0", "grad_final")}
    drawn = {role: array.astype(dtype) for role, array in drawn.items()}
    return drawn | ({"reset": rng.random(shape) < 0.3} if with_reset else {})


def run(
    form: GateForm, axis: int, given: dict[str, Any], *, on_gpu: bool
) -> tuple[dict[str, Any], str]:
    """All results of both passes, those not written full of NaN; and which kernels ran."""
    columns = given["a"]
    dtype, shape = columns.dtype, columns.shape
    full = (*shape[:-1], form.width)
    segments = len(given["offsets"]) - 1 if "offsets" in given else 0
    along = (segments,) if segments else ()
    state = (*shape[:axis], *along, *shape[axis + 1 : -1], form.width)

    def launch(roles: tuple[str, ...], results: dict[str, Any]) -> str:
        arrays = {role: given[role] for role in roles if role in given} | results
        problem = prepare_gates(
            form, dtype.name, shape, axis, frozenset(arrays), gpu.target(), segments=segments
        )
        if on_gpu:
            kinds = {role: v.view(emulated.EmulatedArray) for role, v in arrays.items()}
            emulated.adapter().run(problem, kinds)
            return gpu.describe(problem)
        pointers = {role: array.ctypes.data for role, array in arrays.items()}
        native.run(problem, native.pack(pointers))
        return native.describe(problem)

    forward = {"h": full, "final": state} | ({"y": full} if form.reading == GATED else {})
    found = {role: np.full(extents, np.nan, dtype) for role, extents in forward.items()}
    said = [launch(("a", "h0", "reset", "offsets"), found)]
    grads = {"grad_a": np.zeros_like(columns)}
    if "h0" in given or segments:
        grads["grad_h0"] = np.full(state, np.nan, dtype)
    read = ("a", "h0", "reset", "offsets", "grad_h", "grad_final")
    said.append(launch(read, {"h": found["h"], **grads}))
    return found | grads, "; ".join(said)


@pytest.mark.parametrize("reading", [AFTER, BEFORE, GATED], ids=["after", "before", "gated"])
@pytest.mark.parametrize("own_input", [False, True], ids=["convex", "input"])
def test_every_form_is_that_of_the_cpu(reading: int, own_input: bool) -> None:
    """Outputs, states and the gradients of columns and states, and nothing in between the columns."""
    ways = set()
    cases = itertools.product(SIZES, ("float32", "float64"), (4, 1))
    for number, (size, dtype, gap) in enumerate(cases):
        candidate = (number // 2 + reading) % len(CANDIDATES)
        form = form_for(reading, own_input, candidate, size[2], number % 4 > 1, gap)
        given = draw(form, size, dtype, with_states=number % 3 > 0, with_reset=number % 5 > 1)
        right, _ = run(form, size[1], given, on_gpu=False)
        found, said = run(form, size[1], given, on_gpu=True)
        ways |= {word for word in ("walk", "look-back") if word in said}
        assert found.keys() == right.keys()
        close = TOLERANCE[dtype]
        for role, array in found.items():
            message = f"{role} of {form} {size} {dtype}"
            np.testing.assert_allclose(array, right[role], close, close, err_msg=message)
    assert ways == {"walk", "look-back"}


@pytest.mark.parametrize("abreast", [False, True])
def test_16_bits_are_computed_in_float32(abreast: bool) -> None:
    width = 64 if abreast else 16
    form = form_for(GATED, True, 1, width, False)
    given = draw(form, ((60, 2), 0, width), "float16", True, True)
    wide = {role: v if role == "reset" else v.astype("float64") for role, v in given.items()}
    right, _ = run(form, 0, wide, on_gpu=False)
    with emulated.tuned(**(emulated.SMALL | emulated.ABREAST if abreast else emulated.SMALL)):
        found, said = run(form, 0, given, on_gpu=True)
    assert "in float32" in said
    assert ("in 2 groups of up to 64" in said) == abreast
    for role, array in found.items():
        assert array.dtype == np.float16
        close = TOLERANCE["float16"]
        np.testing.assert_allclose(array.astype("float64"), right[role], close, close, err_msg=role)


def test_bits_do_not_depend_on_timing() -> None:
    form = form_for(GATED, True, 2, 8, False)
    given = draw(form, ((150,), 0, 8), "float32", True, True)
    first, said = run(form, 0, given, on_gpu=True)
    assert said.count("look-back") == 2
    for seed, blocks in ((1, 1), (2, 3), (3, 40)):
        emulated.schedule(seed, blocks)
        again, _ = run(form, 0, given, on_gpu=True)
        for role, array in first.items():
            assert array.tobytes() == again[role].tobytes()


def test_a_reset_shuts_out_what_was_before() -> None:
    """A step that is reset begins anew: as if the sequence started there, on both sides of a tile's edge."""
    form = form_for(GATED, True, 1, 4, False)
    given = draw(form, ((90,), 0, 4), "float64", True, False)
    for start in (1, 8, 16, 63, 64, 89):
        reset = np.zeros(90, bool)
        reset[start] = True
        whole, _ = run(form, 0, given | {"reset": reset}, on_gpu=True)
        late = {role: v[start:] if role in ("a", "grad_h") else v for role, v in given.items()}
        late["h0"] = np.zeros_like(given["h0"])
        rest, _ = run(form, 0, late, on_gpu=True)
        np.testing.assert_allclose(whole["y"][start:], rest["y"], 1e-12, 1e-12)
        np.testing.assert_allclose(whole["grad_a"][start + 1 :], rest["grad_a"][1:], 1e-12, 1e-12)
        np.testing.assert_allclose(whole["final"], rest["final"], 1e-12, 1e-12)


@pytest.mark.parametrize("reading", [AFTER, BEFORE, GATED], ids=["after", "before", "gated"])
def test_each_segment_is_as_alone(reading: int) -> None:
    """Sequences one after the other, some without steps: each as the CPU has it in a call of its own."""
    offsets = np.array([0, 0, 7, 8, 8, 24, 25, 90, 90])
    ways = set()
    for number, (shape, axis) in enumerate((((90, 2), 0), ((2, 90), 1), ((90, 150), 0))):
        width = 1 if shape[-1] == 150 else 5
        form = form_for(reading, number % 2 > 0, 1, width, number % 2 > 0)
        size = (shape, axis, width)
        given = draw(form, size, "float64", with_states=False, with_reset=False)
        state = (*shape[:axis], len(offsets) - 1, *shape[axis + 1 :], width)
        rng = rng_for("segments of gates", number)
        states = {role: rng.standard_normal(state) for role in ("h0", "grad_final")}
        for each in (given, given | states):
            tuning = {"many_lanes": 100} if shape[-1] == 150 else {}
            with emulated.tuned(**emulated.SMALL, **tuning):
                found, said = run(form, axis, each | {"offsets": offsets}, on_gpu=True)
            assert said.count(f"{len(offsets) - 1} segments") == 2
            ways |= {word for word in ("walk", "look-back") if word in said}
            for place, (start, end) in enumerate(itertools.pairwise(offsets)):
                steps = [slice(None)] * len(shape)
                steps[axis] = slice(start, end)
                alone = {
                    role: v.take(place, axis) if role in states else v[tuple(steps)].copy()
                    for role, v in each.items()
                }
                alone.setdefault("h0", np.zeros((*shape[:axis], *shape[axis + 1 :], width)))
                right, _ = run(form, axis, alone, on_gpu=False)
                for role, array in found.items():
                    of_states = role in ("final", "grad_h0")
                    one = array.take(place, axis) if of_states else array[tuple(steps)]
                    np.testing.assert_allclose(
                        one, right[role], 1e-12, 1e-12, err_msg=f"{role} of {place} {size}"
                    )
    assert ways == {"walk", "look-back"}


@pytest.mark.parametrize("starts", ["reset", "offsets"])
def test_nothing_passes_a_start(starts: str) -> None:
    """A candidate that overflows before a start, and a gradient that does after it."""
    for reading in (AFTER, GATED):
        form = form_for(reading, True, 0, 4, False)
        given = draw(form, ((90,), 0, 4), "float32", False, False)
        at = {"reset": np.arange(90) == 40, "offsets": np.array([0, 40, 90])}[starts]
        clean, _ = run(form, 0, given | {starts: at}, on_gpu=True)
        for bad in (np.nan, np.inf):
            dirty = given | {"a": given["a"].copy()}
            dirty["a"][39, form.at_candidate :][:4] = bad
            found, _ = run(form, 0, dirty | {starts: at}, on_gpu=True)
            for role in {"h", "y"} & clean.keys():
                np.testing.assert_allclose(found[role][40:], clean[role][40:], 1e-5, 1e-6)
            dirty = given | {"grad_h": given["grad_h"].copy()}
            dirty["grad_h"][40] = bad
            found, _ = run(form, 0, dirty | {starts: at}, on_gpu=True)
            np.testing.assert_allclose(found["grad_a"][:40], clean["grad_a"][:40], 1e-5, 1e-6)


@pytest.mark.parametrize("time", [0, 1])
def test_no_step_and_one(time: int) -> None:
    for reading in (AFTER, BEFORE, GATED):
        form = form_for(reading, False, 1, 6, False)
        given = draw(form, ((2, time), 1, 6), "float64", True, True)
        right, _ = run(form, 1, given, on_gpu=False)
        found, _ = run(form, 1, given, on_gpu=True)
        for role, array in found.items():
            np.testing.assert_allclose(array, right[role], 1e-12, 1e-12, err_msg=role)


def test_arrays_on_a_gpu_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells' way: one launch for each pass, also with resets and states."""
    calls: list[bool] = []
    plain = gpu.run

    def recorded(problem: native.NativeProblem, *arguments: Any) -> None:
        calls.append("gates" in gpu.describe(problem))
        plain(problem, *arguments)

    monkeypatch.setattr(gpu, "run", recorded)
    emulated.adapter()
    rng = rng_for("gates of arrays")
    gates = Gates(("decay", "input", "output", "candidate"))
    columns = rng.standard_normal((30, 2, 4 * 6))
    first, reset = rng.standard_normal((2, 6)), rng.random((30, 2)) < 0.3
    on_gpu = [v.view(emulated.EmulatedArray) for v in (columns, first, reset)]
    wanted = outputs(Gated(columns, gates), first, Starts(0, reset))
    found = outputs(Gated(on_gpu[0], gates), on_gpu[1], Starts(0, on_gpu[2]))
    assert calls == [True]
    for actual, right in zip(found, wanted, strict=True):
        assert type(actual) is emulated.EmulatedArray
        np.testing.assert_allclose(actual, right, 1e-12, 1e-12)
    turned = np.asfortranarray(first).view(emulated.EmulatedArray)
    np.testing.assert_allclose(
        outputs(Gated(on_gpu[0], gates), turned, Starts(0, on_gpu[2]))[0], wanted[0], 1e-12
    )
    assert calls == [True, True]
    before, _ = states(Gated(on_gpu[0], gates), on_gpu[1], Starts(0), True)
    np.testing.assert_allclose(before[0], first)
    assert calls == [True] * 3


def test_programs_are_named_by_their_form() -> None:
    """One program for all sizes of a tile's kind; and its own for each form. `complement` is told at run time."""

    def programs(**changes: Any) -> list[str]:
        form = form_for(GATED, True, 1, 64, False)._replace(**changes)
        return gpu.programs(
            native.prepare_gates(form, DTYPES["float32"][0], (4, 100, 300), 1, {"a", "h", "y"})
        )

    (named,) = programs()
    assert "-DSCANLIB_SOURCE=1 -DSCANLIB_CANDIDATE=1 -DSCANLIB_READING=2 -DSCANLIB_INPUT=1" in named
    assert programs(complement=1) == [named]
    assert programs(candidate=2) != [named]
    assert programs(at_input=-1) != [named]
