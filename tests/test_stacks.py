"""What tests/stacks.py promises of its shapes, and the emulated kernels on them; test_gpu.py has the GPU."""

from __future__ import annotations

import re

import pytest
import stacks
from matrix import Member
from native_calls import dense_problem

from scanlib import gpu


@pytest.mark.parametrize("layout", stacks.SHAPES)
def test_there_are_more_than_four(layout: str) -> None:
    shape, axis = stacks.SHAPES[layout]
    with gpu.tuned(stacks.TUNING):
        for roles in (("a", "x", "h"), ("a", "h", "grad_h", "grad_a", "grad_x")):
            plan = gpu.describe(dense_problem(shape, axis, roles, target=gpu.target()))
            assert f"look-back over {layout.split()[-1]} in float32" in plan
            found = re.search(r"(\d+) tiles", plan)
            assert found is not None
            assert int(found[1]) > 4 * 4


@pytest.mark.parametrize("layout", stacks.SHAPES)
def test_emulated(member: Member, layout: str) -> None:
    stacks.check(member, layout, repeats=2)
