"""Programs lowered for JAX on CUDA, without a GPU: the custom calls, their scratch memory, what is compiled ahead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from native_calls import dense_problem

import scanlib
from scanlib import compiler, gpu, native

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402

from scanlib import jax_export  # noqa: E402
from scanlib.backends import jax as adapter  # noqa: E402
from scanlib.backends.jax import internals as jax_internals  # noqa: E402
from scanlib.backends.jax import lowering as jax_lowering  # noqa: E402
from scanlib.roles import NUMBERS  # noqa: E402

pytestmark = pytest.mark.skipif(
    bool(jax_lowering.missing("cuda")), reason=jax_lowering.missing("cuda") or "it is here"
)
LONG = (1 << 18, 2)  # takes scratch memory in both directions


def lowered(function: Any, *shapes: Any, platforms: tuple[str, ...] = ("cuda",)) -> str:
    """The program for arrays of float32 by their shapes, or for operands of another dtype."""
    operands = [
        jax.ShapeDtypeStruct(shape, np.float32) if isinstance(shape, tuple) else shape
        for shape in shapes
    ]
    made = export.export(jax.jit(function), platforms=platforms, disabled_checks=jax_export.CHECKS)
    return str(made(*operands).mlir_module())


def calls(text: str) -> list[tuple[str, list[str]]]:
    """Each custom call with the types of its results."""
    found = []
    for line in text.splitlines():
        if name := re.search(r"custom_call @(scanlib_\w+)", line):
            results = line.rpartition("->")[2]
            found.append((name[1], re.findall(r"tensor<([^>]*)>", results)))
    return found


def scan(a: Any, x: Any) -> Any:
    return scanlib.linear_recurrence(a, x, axis=0)


def scratch(backward: bool = False) -> str:
    roles = ("a", "h", "grad_h", "grad_a", "grad_x") if backward else ("a", "x", "h")
    size = gpu.scratch_bytes(dense_problem(LONG, 0, roles))
    assert size > 0
    return f"{size}xui8"


def test_scratch_memory_is_the_last_result() -> None:
    ((name, results),) = calls(lowered(scan, LONG, LONG))
    assert name == "scanlib_recurrence"
    assert results == ["262144x2xf32", scratch()]


def test_a_gradient_is_one_scan_and_one_backward() -> None:
    text = lowered(jax.grad(lambda a, x: scan(a, x).sum(), (0, 1)), LONG, LONG)
    forward, backward = calls(text)
    assert forward == ("scanlib_recurrence", ["262144x2xf32", scratch()])
    assert backward == ("scanlib_recurrence", ["262144x2xf32"] * 2 + [scratch(backward=True)])


def test_one_export_serves_both_platforms() -> None:
    text = lowered(scan, (30, 4), (30, 4), platforms=("cpu", "cuda"))
    assert sorted(results for _, results in calls(text)) == [["30x4xf32"], ["30x4xf32", "0xui8"]]


def test_final_state_comes_before_the_scratch_memory() -> None:
    def both(a: Any, x: Any, h0: Any) -> Any:
        return scanlib.linear_recurrence(a, x, h0, axis=0, return_final=True)

    ((_, results),) = calls(lowered(both, LONG, LONG, (2,)))
    assert [text.rpartition("x")[0] for text in results[:2]] == ["262144x2", "2"]
    assert results[2].endswith("xui8")


def test_scratch_memory_is_that_of_a_problem_with_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the handler makes of the same operands; packed states are results with an axis of sequences."""
    made: list[Any] = []

    def scratch_bytes(problem: native.NativeProblem) -> int:
        made.append(native._Problem.from_buffer_copy(problem))
        return 48

    monkeypatch.setattr(jax_lowering.gpu, "scratch_bytes", scratch_bytes)

    def loss(a: Any, x: Any, h0: Any, starts: Any) -> Any:
        given = {"reset": starts} if starts.dtype == bool else {"offsets": starts}
        h, final = scanlib.linear_recurrence(a, x, h0, axis=0, return_final=True, **given)
        return h.sum() + final.sum()

    grad = jax.grad(loss, (0, 1, 2))
    of_reset = jax.ShapeDtypeStruct((30, 1), bool), (2,), "2xf32"
    of_offsets = jax.ShapeDtypeStruct((8,), np.int32), (7, 2), "7x2xf32"
    for starts, shape, state in (of_reset, of_offsets):
        text = lowered(grad, (30, 2), (30, 2), shape, starts)
        (_, forward), (_, backward) = calls(text)
        assert forward == ["30x2xf32", state, "48xui8"]
        assert backward == ["30x2xf32"] * 2 + [state, "48xui8"]
    with_reset, packed = made[:2], made[2:]
    assert [problem.segments for problem in made] == [0, 0, 7, 7]
    assert all(problem.dtype[NUMBERS["reset"]] == 7 for problem in with_reset)
    assert all(problem.dtype[NUMBERS["offsets"]] == 8 for problem in packed)
    assert {problem.time.stride[NUMBERS["h0"]] for problem in packed} == {8}


def test_extents_left_open_take_the_slow_path_and_say_so() -> None:
    jax_internals.warn_once.cache_clear()
    (steps,) = export.symbolic_shape("t")
    operand = jax.ShapeDtypeStruct((steps, 4), np.float32)
    with pytest.warns(RuntimeWarning, match="scratch memory a CUDA kernel needs"):
        made = export.export(jax.jit(scan), platforms=["cuda"], disabled_checks=jax_export.CHECKS)(
            operand, operand
        )
    assert not calls(str(made.mlir_module()))


def test_programs_are_compiled_when_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every kind of GPU in this process, so that nothing is compiled while XLA records a command buffer."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(jax_lowering, "_architectures", lambda: (80, 90))
    monkeypatch.setattr(
        compiler, "provider", lambda text, arch: asked.append((text, arch)) or b"image"
    )
    shape = (LONG[0] + 1, 2)  # JAX keeps what it has lowered
    lowered(scan, shape, shape)
    needed = gpu.programs(dense_problem(shape, 0, ("a", "x", "h")))
    assert asked == [(text, arch) for arch in (80, 90) for text in needed]


def test_a_program_that_does_not_compile_fails_the_lowering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(definitions: str, architecture: int) -> bytes:
        raise compiler.CompileError("no such luck")

    monkeypatch.setattr(jax_lowering, "_architectures", lambda: (90,))
    monkeypatch.setattr(compiler, "provider", broken)
    shape = (LONG[0] + 2, 2)
    with pytest.raises(compiler.CompileError, match="no such luck"):
        lowered(scan, shape, shape)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiler, "unavailable", lambda: "NVRTC is not here")
    jax_lowering.missing.cache_clear()
    jax_internals.warn_once.cache_clear()
    yield
    jax_lowering.missing.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_it_says_so() -> None:
    with pytest.warns(RuntimeWarning, match="NVRTC is not here"):
        text = lowered(scan, (100, 3), (100, 3))
    assert not calls(text)
    assert jax_lowering.missing("cpu") == ""


def test_explained_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "platform_of", lambda devices: "cuda")
    a = jnp.ones(LONG)
    explanation = scanlib.explain(a, a, axis=0)
    dense = dense_problem(LONG, 0, ("a", "x", "h"), a.dtype.name)
    assert explanation.path == "libscanlib (cuda)"
    assert explanation.kernel == gpu.describe(dense)


class _Device:
    def __init__(self, platform: str, version: str) -> None:
        self.platform, self.client = platform, self
        self.platform_version = version


@pytest.mark.parametrize(
    ("platform", "version", "expected"),
    [
        ("cpu", "", "cpu"),
        ("gpu", "cuda 13000", "cuda"),
        ("gpu", "rocm 70000", "rocm"),
        ("tpu", "", "tpu"),
    ],
)
def test_platforms_are_told_apart(platform: str, version: str, expected: str) -> None:
    assert adapter.platform_of([_Device(platform, version)]) == expected
