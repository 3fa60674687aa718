"""Programs that are exported: what refuses them says how, and they run in a process that knows nothing of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")

import jax
import jax.numpy as jnp
from jax import export
from jax_cases import Function, assert_trees_close, both_outputs, inputs, scan, weighted

import scanlib
from scanlib import jax_export
from scanlib.backends.jax import lowering as jax_lowering


def exported(function: Function, *args: Any, vjp_order: int = 0) -> bytearray:
    program = export.export(jax.jit(function), disabled_checks=jax_export.CHECKS)(*args)
    return program.serialize(vjp_order=vjp_order)


def loaded(function: Function, *args: Any) -> Any:
    return export.deserialize(exported(function, *args))


def test_the_refusal_names_the_way() -> None:
    """What JAX says about a program with calls it does not know, forward and backward."""
    x = jnp.ones((4, 3))
    for function in (
        lambda x: scan(0.5, x, axis=0),
        jax.grad(lambda x: scan(0.5, x, axis=0).sum()),
    ):
        with pytest.raises(ValueError, match="no compatibility guarantees") as refused:
            export.export(jax.jit(function))(x)
        assert "disabled_checks=scanlib.jax_export.CHECKS" in str(refused.value)
        export.export(jax.jit(function), disabled_checks=jax_export.CHECKS)(x)
    assert "scanlib.jax_export" not in jax.jit(function).lower(x).as_text(debug_info=True)


def test_all_targets_are_covered() -> None:
    names = {check.is_custom_call() for check in jax_export.CHECKS}
    assert names == {jax_lowering.TARGET}


def test_round_trip() -> None:
    args = inputs((3,), (4, 3), (3,))
    for function in (both_outputs(0), jax.grad(weighted(both_outputs(0)), (0, 1, 2))):
        assert_trees_close(loaded(function, *args).call(*args), function(*args))


RUNS = """
import sys
import jax, numpy
from scanlib import jax_export

jax.config.update("jax_enable_x64", True)
jax_export.register()
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
given = numpy.load(sys.argv[2])
args = [given[name] for name in ("a", "x", "h0")]
loss = lambda *args: sum((part**2).sum() for part in program.call(*args))
numpy.savez(sys.argv[3], *program.call(*args), *jax.grad(loss, (0, 1, 2))(*args))
"""


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Values and gradients, in a process that has compiled no recurrence."""
    args = inputs((3,), (40, 3), (3,))
    blob, given, found = (tmp_path / name for name in ("program", "given.npz", "found.npz"))
    blob.write_bytes(exported(both_outputs(0), *args, vjp_order=1))
    np.savez(given, **dict(zip(("a", "x", "h0"), args, strict=True)))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNS, blob, given, found],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr

    def loss(*args: Any) -> Any:
        return sum((part**2).sum() for part in both_outputs(0)(*args))

    expected = *both_outputs(0)(*args), *jax.grad(loss, (0, 1, 2))(*args)
    assert_trees_close(tuple(np.load(found).values()), expected)


def test_documented_code_runs() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "jax.md").read_text()
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "jax.md", "exec"), namespace)
    assert_trees_close(namespace["h"], namespace["smooth"](namespace["x"]))


def test_register_says_why_not() -> None:
    jax_export.register()
    jax_export.register("cpu")
    with pytest.raises(scanlib.MissingLibraryError, match="no kernels for JAX on tpu"):
        jax_export.register("tpu")


def test_unknown_extents() -> None:
    batch, T = export.symbolic_shape("batch, T")
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float64) for shape in ((3,), (batch, T, 3), (batch, 3))
    ]
    for pure in (False, True):
        run = both_outputs(1, reverse=True, pure=pure)
        functions = [
            run,
            jax.grad(lambda a, x, h0, run=run: run(a, x, h0)[0].sum() ** 2, (0, 1, 2)),
        ]
        for function in functions:
            program = loaded(function, *shapes)
            for sizes in ((2, 4), (5, 1), (1, 300)):
                args = inputs((3,), (*sizes, 3), (sizes[0], 3))
                assert_trees_close(program.call(*args), function(*args))
