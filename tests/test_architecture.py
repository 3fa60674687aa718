"""What docs/architecture.md promises of the code itself: one table of operands, and no import that goes in a circle."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_build import ROOT

from scanlib import dispatch, native, roles
from scanlib.backends import array_functions
from scanlib.kinds import LIBRARIES

#: How each name of the C table is called in `scanlib.roles`.
USES = {f"SCANLIB_{use}": getattr(roles, use) for use in ("UNUSED", "READ", "WRITTEN", "OPTIONAL")}


def test_both_tables_of_operands_agree() -> None:
    header = (ROOT / "native" / "scanlib.h").read_text()
    table = header[header.index("#define SCANLIB_ROLE_TABLE") :]
    table = re.sub(r"\s*\\\n\s*", " ", table[: table.index("typedef")])
    rows = re.findall(r"ROW\((\w+), (\w+), ([01])((?:, [\w |]+){4})\)", table)
    found = []
    for upper, name, state, by_pass in rows:
        assert upper == name.upper()
        uses = (sum(USES[word] for word in use.split(" | ")) for use in by_pass[2:].split(", "))
        found.append(roles.Role(name, state == "1", *uses))
    assert tuple(found) == roles.ROLES


def test_the_numbers_of_a_cut_are_those_of_the_header() -> None:
    header = (ROOT / "native" / "scanlib.h").read_text()
    struct = re.search(r"typedef struct scanlib_tuning \{(.*?)\}", header, re.DOTALL)
    assert struct is not None
    assert tuple(re.findall(r"(\w+)[,;]", struct[1])) == native.TUNING


def test_every_gradient_belongs_to_an_operand() -> None:
    for name, gradient in roles.GRADIENTS.items():
        of, to = (roles.ROLES[roles.NUMBERS[role]] for role in (name, gradient))
        assert of.forward & roles.READ
        assert (of.state, of.forward & roles.OPTIONAL) == (to.state, to.backward & roles.OPTIONAL)


@pytest.mark.parametrize("kind", [*LIBRARIES, "standard"])
def test_every_library_has_all_functions(kind: str) -> None:
    """What `scanlib.backends.array_functions` has, in the library's way or in that of the standard."""
    pytest.importorskip("array_api_compat" if kind == "standard" else LIBRARIES[kind][0])
    wanted = {name for name, f in vars(array_functions).items() if inspect.isfunction(f)}
    assert len(wanted) > 20
    functions = dispatch.load(kind).functions
    assert not [name for name in sorted(wanted) if not callable(getattr(functions, name, None))]


# ---- imports


def modules() -> dict[str, Path]:
    """Every module of the package by its name, as it is installed."""
    found = {}
    for folder, package in (("scanlib", "scanlib"), ("backends", "scanlib.backends")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path, known: dict[str, Path], *, later: bool) -> set[str]:
    """What a module imports: to be imported itself, or with `later` in its functions as well."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()).body, later):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else node.module for name in names)
    return found & known.keys()


def _statements(body: list[ast.stmt], later: bool) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not later:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, []), later)


def test_no_import_goes_in_a_circle() -> None:
    known = modules()
    graph = {name: imports(path, known, later=False) for name, path in known.items()}
    assert len(graph) > 60
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*way, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


#: Floors of the house, from the ground up. Nothing calls up, not even in a function.
FLOORS = (
    "backends",
    "dispatch jax_export",
    "recurrence",
    "cells",
    "layers",
    "config __init__ __main__",
)


def _floor(module: str) -> int:
    first = module.removeprefix("scanlib").lstrip(".").split(".")[0] or "__init__"
    return next((i + 1 for i, floor in enumerate(FLOORS) if first in floor.split()), 0)


def test_nothing_calls_up() -> None:
    known = modules()
    for name, path in known.items():
        for other in imports(path, known, later=True):
            up = _floor(other) > _floor(name)
            assert not up, f"{name} imports {other}, which lies above it"
