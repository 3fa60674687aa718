"""Whether two trees of scanlib compute the same bits: what a change that only moves code has to show.

    python tests/compare_bits.py dump FILE      with one tree installed, and with the other
    python tests/compare_bits.py compare A B    what differs

A dump has a digest of every result: forward, final states and gradients of every library on a CPU, of every dtype, in
layouts that take every way through the kernels; and of every cell. Only public functions are called, so that any two
versions can be compared.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Results = Iterator[tuple[str, Any]]
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
#: (shape, axis): one step, rows, columns, few columns, one long sequence whose time is split, several axes
SHAPES = (
    ((3, 1), 1),
    ((5, 33), 1),
    ((200, 70), 1),
    ((130, 37), 0),
    ((300, 3), 0),
    ((70_001,), 0),
    ((2, 5003, 21), 1),
    ((3, 2, 40, 5), 2),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("dump", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    if options.action == "dump":
        found = {name: _digest(value) for name, value in results()}
        options.files[0].write_text(json.dumps(found, indent=0))
        print(f"{len(found)} results")
        return 0
    before, after = (json.loads(path.read_text()) for path in options.files)
    names = sorted(before.keys() | after.keys())
    differ = [name for name in names if before.get(name) != after.get(name)]
    for name in differ[:100]:
        print(f"{name}: {before.get(name, 'absent')} and {after.get(name, 'absent')}")
    print(f"{len(differ)} of {len(names)} results differ")
    return 1 if differ else 0


def results() -> Results:
    """(name, arrays) of everything."""
    yield from _named("numpy", _numpy())
    for library, run in (("torch", _torch), ("jax", _jax), ("array_api_strict", _standard)):
        if importlib.util.find_spec(library):
            yield from _named(library, run())
    for library in ("numpy", "torch", "jax"):
        if importlib.util.find_spec(library):
            yield from _named(f"{library} cells", _cells(library))


def _named(prefix: str, found: Results) -> Results:
    for name, value in found:
        yield f"{prefix}: {name}", value


def _digest(value: Any) -> str:
    arrays = [v for v in (value if isinstance(value, (tuple, list)) else [value]) if v is not None]
    digest = hashlib.sha256()
    for array in arrays:
        if type(array).__module__.startswith("torch"):
            import torch

            array = array.detach().contiguous()
            array = array.view(torch.uint8) if array.ndim else array.reshape(1).view(torch.uint8)
        plain = np.ascontiguousarray(np.asarray(array))
        digest.update(f"{plain.dtype} {plain.shape}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()[:16]


# ---- inputs


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class Inputs:
    """The operands of one case, from its name alone."""

    def __init__(self, shape: tuple[int, ...], axis: int, dtype: str) -> None:
        self.rng = np.random.default_rng(list(f"{shape} {axis} {dtype}".encode()))
        self.shape, self.axis, self.dtype = shape, axis, dtype
        self.state = (*shape[:axis], *shape[axis + 1 :])
        self.a = self.normal(shape, 0.5) + np.asarray(0.4, _dtype(dtype))
        self.x, self.grad = self.normal(shape), self.normal(shape)
        self.h0, self.grad_final = self.normal(self.state), self.normal(self.state)

    def normal(self, shape: tuple[int, ...], scale: float = 1.0) -> Array:
        values = self.rng.uniform(-scale, scale, shape)
        if self.dtype.startswith("complex"):
            values = values + 1j * self.rng.uniform(-scale, scale, shape)
        return values.astype(_dtype(self.dtype))

    def variants(self) -> Iterator[tuple[str, dict[str, Array]]]:
        """Contiguous, without states, broadcast `a` of every kind, strided views, and special values."""
        whole = {"a": self.a, "x": self.x, "h0": self.h0}
        yield "whole", whole
        yield "no states", {"a": self.a, "x": self.x}
        yield "constant a", whole | {"a": self.a.reshape(-1)[:1].reshape(())}
        for axis in range(len(self.shape)):
            repeated = np.take(self.a, [0], axis)
            yield f"a repeated along {axis}", whole | {"a": repeated}
        yield (
            "every other",
            {
                name: np.repeat(value, 2, -1)[..., ::2] if value.ndim else value
                for name, value in whole.items()
            },
        )
        yield (
            "flipped",
            {name: np.flip(np.flip(v).copy()) if v.ndim else v for name, v in whole.items()},
        )
        yield (
            "Fortran",
            {
                name: np.asfortranarray(value) if value.ndim else value
                for name, value in whole.items()
            },
        )
        special = self.x.copy()
        special.reshape(-1)[:: max(1, special.size // 5)] = np.inf
        yield "special", whole | {"x": special}


def _cases(dtypes: tuple[str, ...] = DTYPES, most: int = 1 << 20) -> Iterator[tuple[str, Inputs]]:
    for dtype in dtypes:
        for shape, axis in SHAPES:
            if np.prod(shape) <= most:
                yield f"{dtype} {shape} axis {axis}", Inputs(shape, axis, dtype)


# ---- libraries


def _numpy() -> Results:
    import scanlib

    for title, case in _cases():
        for variant, given in case.variants():
            for reverse in (False, True):
                options = {"axis": case.axis, "reverse": reverse}
                with np.errstate(all="ignore"):
                    found = scanlib.linear_recurrence(**given, **options, return_final=True)
                    name = f"{title}, {variant}{', reverse' * reverse}"
                    yield f"{name}, forward", found
                    grads = scanlib.linear_recurrence_vjp(
                        case.grad,
                        given["a"],
                        found[0],
                        given.get("h0"),
                        **options,
                        grad_final=case.grad_final if "h0" in given else None,
                    )
                    yield f"{name}, backward", grads


def _torch() -> Results:
    import torch

    import scanlib

    def tensor(given: Array) -> Any:
        value = np.asarray(given)
        if value.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(np.array(value, order="K").view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(value, order="K"))

    for title, case in _cases():
        for variant, given in case.variants():
            if variant == "flipped":
                continue  # torch has no negative strides
            operands = {name: tensor(v).requires_grad_() for name, v in given.items()}
            for reverse in (False, True):
                options = {"axis": case.axis, "reverse": reverse, "return_final": True}
                h, final = scanlib.linear_recurrence(**operands, **options)
                grads = [tensor(case.grad), tensor(case.grad_final)]
                first = torch.autograd.grad(
                    (h, final), list(operands.values()), grads, create_graph=True
                )
                name = f"{title}, {variant}{', reverse' * reverse}"
                yield f"{name}, forward", (h, final)
                yield f"{name}, gradients", first
                if np.prod(case.shape) < 10_000:
                    total = sum((g * g.conj()).real.sum() for g in first)
                    second = torch.autograd.grad(total, list(operands.values()), allow_unused=True)
                    yield f"{name}, second", second


def _jax() -> Results:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    for title, case in _cases(("bfloat16", "float32", "complex64"), 30_000):
        for variant, given in case.variants():
            if variant in ("flipped", "Fortran"):
                continue
            names = list(given)
            values = [jnp.asarray(given[name]) for name in names]
            for reverse in (False, True):
                options = {"axis": case.axis, "reverse": reverse, "return_final": True}
                run = functools.partial(_by_position, names, options)
                found, pull = jax.vjp(run, *values)
                name = f"{title}, {variant}{', reverse' * reverse}"
                yield f"{name}, forward", found
                yield (
                    f"{name}, gradients",
                    pull(tuple(map(jnp.asarray, (case.grad, case.grad_final)))),
                )


def _by_position(names: list[str], options: dict[str, Any], *values: Any) -> Any:
    import scanlib

    return scanlib.linear_recurrence(**dict(zip(names, values, strict=True)), **options)


def _standard() -> Results:
    import array_api_strict as xp

    import scanlib

    for title, case in _cases(("float32", "complex128"), 5_000):
        for variant, given in case.variants():
            operands = {
                name: xp.asarray(np.array(value, copy=True)) for name, value in given.items()
            }
            with np.errstate(all="ignore"):
                h, final = scanlib.linear_recurrence(**operands, axis=case.axis, return_final=True)
                yield f"{title}, {variant}, forward", [np.asarray(v) for v in (h, final)]


def _cells(library: str) -> Results:
    from scanlib import cells

    rng = np.random.default_rng(7)
    x = rng.standard_normal((3, 50, 8)).astype(np.float32)
    for name, kind in sorted(cells.CELLS.items()):
        cell = kind()
        drawn = cell.init(np.random.default_rng(1), 8, 6)
        params = {key: value.astype(np.float32) for key, value in drawn.items()}
        if library == "numpy":
            yield name, _flat(cell(params, x, axis=1))
            continue
        if library == "torch":
            import torch

            made = {
                key: torch.from_numpy(np.ascontiguousarray(value)).requires_grad_()
                for key, value in params.items()
            }
            y, state = cell(made, torch.from_numpy(x), axis=1)
            yield name, [y, *state]
            total = y.real.square().sum() if y.is_complex() else y.square().sum()
            yield (
                f"{name}, gradients",
                torch.autograd.grad(total, list(made.values()), allow_unused=True),
            )
            continue
        import jax.numpy as jnp

        yield name, _flat(cell(params, jnp.asarray(x), axis=1))


def _flat(found: Any) -> list[Any]:
    y, state = found
    return [y, *state]


if __name__ == "__main__":
    sys.exit(main())
