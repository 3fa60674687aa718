"""The members of the matrix that have a GPU, and torch and CuPy as fixtures, for tests of what only a GPU can show."""

from __future__ import annotations

from typing import Any

import pytest
from capabilities import Backend
from matrix import MEMBERS, Member, missing

from scanlib import gpu, native


def member(backend: Backend) -> Member:
    if reason := missing(backend):
        pytest.skip(reason)
    return MEMBERS[backend](backend)


@pytest.fixture
def torch() -> Any:
    member(Backend.TORCH_CUDA)
    import torch

    return torch


@pytest.fixture
def cupy() -> Any:
    member(Backend.CUPY)
    import cupy

    return cupy


def fresh_programs() -> None:
    """Forget every program, so that the next call compiles and loads its own."""
    native.check(gpu.library().scanlib_cuda_use_driver(None))
