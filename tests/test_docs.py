"""The prose keeps its promises: README's code runs, its tables are those of the code, docstring examples hold."""

import doctest
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

import scanlib

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_code_runs():
    for module in ("torch", "jax"):
        pytest.importorskip(module)
    first, *rest = BLOCKS
    assert len(rest) == 4
    namespace: dict[str, object] = {}
    for block in rest:
        exec(compile(block, "README.md", "exec"), namespace)
    exec(
        compile(first, "README.md", "exec"), namespace
    )  # the first screen, on the arrays made below it
    assert namespace["h"].shape == (8, 1000, 64)  # type: ignore[attr-defined]


def test_readme_tables_are_current(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    with pytest.raises(SystemExit) as status:
        runpy.run_path(str(ROOT / "docs" / "make_tables.py"), run_name="__main__")
    assert status.value.code == 0, capsys.readouterr().err


def modules_with_examples() -> list[str]:
    """Found by their text, so that none is left out and none is without."""
    package = ROOT / "scanlib"
    paths = [path for path in sorted(package.rglob("*.py")) if ">>> " in path.read_text()]
    parts = (path.relative_to(ROOT).with_suffix("").parts for path in paths)
    return [".".join(part for part in each if part != "__init__") for each in parts]


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_public_functions_have_examples():
    for name in ("linear_recurrence", "linear_recurrence_vjp", "explain", "show_config"):
        assert ">>>" in getattr(scanlib, name).__doc__
