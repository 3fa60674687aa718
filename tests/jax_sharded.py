"""Checks of JAX arrays on four devices: arrays, functions, and the process that runs the checks of a file.

Four devices have to be asked for before JAX starts: a test file runs itself once in a process that has them, and each
of its tests reports one check.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scanlib.backends import jax as adapter

B, T, D = 8, 40, 4
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


@functools.cache
def outcomes(file: str) -> dict[str, str]:
    """What the checks of a file came to: the traceback of each, empty where it held."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-W", "error", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        return dict.fromkeys(CHECKS, run.stderr[-4000:])
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    assert jax.device_count() == 4
    found = {}
    for name, function in CHECKS.items():
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc(limit=-6)
    print(json.dumps(found))


# ---- in the process that has four


def mesh(*sizes: int, kind: Any = None) -> Any:
    return jax.make_mesh(
        sizes, ("i", "j")[: len(sizes)], axis_types=(kind or AxisType.Auto,) * len(sizes)
    )


def put(value: Any, on: Any, *spec: Any) -> Any:
    return jax.device_put(value, NamedSharding(on, PartitionSpec(*spec)))


def values() -> tuple[Any, Any, Any]:
    """a for every element, x, h0"""
    rng = np.random.default_rng(1)
    shapes = (B, T, D), (B, T, D), (B, D)
    a, x, h0 = (jnp.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    return a / 2, x, h0


def run(a: Any, x: Any, h0: Any, pure: bool = False) -> Any:
    return adapter.linear_recurrence(a, x, h0, 1, False, True, None, pure=pure)


def loss(a: Any, x: Any, h0: Any, pure: bool = False) -> Any:
    h, final = run(a, x, h0, pure)
    return (h**2).sum() + (final**3).sum()


def grads_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.grad(function, (0, 1, 2))


def close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda v, w: np.testing.assert_allclose(v, w, rtol=2e-4, atol=2e-4), found, expected
    )


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """The result, checked against that of one device, and the program's text."""
    program = jax.jit(function).lower(*args).compile()
    found = program(*args)
    single = jax.device_put(jax.tree.map(np.asarray, args), jax.devices()[0])
    close(found, jax.jit(function)(*single))
    return found, program.as_text()
