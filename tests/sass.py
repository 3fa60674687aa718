"""A GPU's machine code, read without a GPU: a cubin's needs, and its instructions and blocks, from nvdisasm's text.

nvdisasm comes with CUDA toolkits, and alone as the package nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PACKAGE, PROGRAM = "nvidia-cuda-nvdisasm", "nvdisasm"


@functools.cache
def disassembler() -> str | None:
    """Where nvdisasm is; None where it is not."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [str(file.locate()) for file in files if file.name in (PROGRAM, PROGRAM + ".exe")]
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        found.append(str(Path(home, "bin", PROGRAM)))
    found.append(PROGRAM)
    return next(filter(None, map(shutil.which, found)), None)


def unavailable() -> str:
    """Why nothing can be disassembled here; empty if it can."""
    return "" if disassembler() else f"nvdisasm is not here: pip install {PACKAGE}"


def listing(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.cubin")
        path.write_bytes(cubin)
        command = [disassembler() or PROGRAM, "--print-code", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvdisasm fails: {done.stderr}")
    return done.stdout


# ---- what a cubin says of its needs

_REGISTERS = 0x2F  # EIATTR_REGCOUNT: a symbol and its number of registers


def registers(cubin: bytes) -> int:
    """The most registers a thread of any of its kernels has."""
    info, at, most = _sections(cubin)[".nv.info"][1], 0, 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == 4:  # others keep their value in place of a size
            if attribute == _REGISTERS:
                most = max(most, struct.unpack_from("<II", info, at)[1])
            at += size
    return most


def shared(cubin: bytes) -> int:
    """Bytes of static shared memory; from sm_90 on the cubin counts in what the system keeps of each block's."""
    sections = _sections(cubin).items()
    return max((size for name, (size, _) in sections if name.startswith(".nv.shared.")), default=0)


def _sections(elf: bytes) -> dict[str, tuple[int, bytes]]:
    """Sections of a 64-bit ELF file by name: size, and bytes where the file has any."""
    (first,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, first + i * entry) for i in range(count)]
    texts = headers[names][4]
    return {
        elf[texts + name : elf.index(b"\0", texts + name)].decode(): (
            size,
            b"" if kind == 8 else elf[at : at + size],  # 8: nothing in the file
        )
        for name, kind, _, _, at, size in headers
    }


# ---- instructions


class Instruction(NamedTuple):
    address: int
    predicate: str  # "" where it always runs, else "P0", "!P0", "UP1"...
    opcode: str
    operands: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def bits(self) -> set[str]:
        return set(self.opcode.split(".")[1:])

    @property
    def width(self) -> int:
        """Bytes that one thread moves, of an instruction that moves memory."""
        for bits, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
            if bits in self.bits:
                return size
        return 4

    @property
    def strong(self) -> bool:
        """Between blocks: an access to what others publish."""
        return "STRONG" in self.bits or self.name in ("ATOMG", "ATOM", "RED", "REDG")

    @property
    def load(self) -> bool:
        """From global memory, and not from what other blocks publish."""
        return self.name in ("LDG", "LDGSTS", "LD") and not self.strong

    @property
    def store(self) -> bool:
        return self.name in ("STG", "ST") and not self.strong

    @property
    def target(self) -> str:
        found = re.search(r"`\(([^)]+)\)", " ".join(self.operands))
        return found[1] if found else ""

    @property
    def jumps(self) -> bool:
        """To one place. Calls of functions come back; those of a label inside of a function do not."""
        return self.name == "BRA" or (self.name == "CALL" and self.target.startswith("."))

    @property
    def conditional(self) -> bool:
        """Of a branch: also a predicate or a mask that is an operand makes it one."""
        return bool(self.predicate) or self.operands[0] != f"`({self.target})"


_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^([.$\w]+):\s*$")
_TARGETS = re.compile(r"BRANCH_TARGETS ([^\"]*)")
_REGISTER = re.compile(r"(?<![\w.])(U?R\d+)(\.64)?(?!\w)")
_PREDICATE = re.compile(r"(?<![\w.])(U?P\d)(?!\w)")
_NO_RESULT = {
    "STG",
    "ST",
    "STS",
    "STL",
    "RED",
    "REDG",
    "LDGSTS",
    "BAR",
    "BRA",
    "EXIT",
    "BSSY",
    "BSYNC",
}


def _span(register: str, count: int) -> list[str]:
    kind = "UR" if register.startswith("U") else "R"
    number = int(register[len(kind) :])
    return [f"{kind}{number + i}" for i in range(count)]


@functools.lru_cache(maxsize=1 << 16)
def written_and_read(instruction: Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """The registers and predicates that an instruction writes, and those that it waits for.

    Results stand first: predicates, and one register. How many registers belong to an operand is told by the opcode.
    """
    name, bits = instruction.name, instruction.bits
    many = 4 if "128" in bits else 2 if bits & {"64", "WIDE"} or name in ("CS2R",) else 1
    if name.startswith("D") and name[1:] in ("FMA", "ADD", "MUL"):
        many = 2
    written: set[str] = set()
    read: set[str] = set(_PREDICATE.findall(instruction.predicate))
    rest = list(instruction.operands)
    if name not in _NO_RESULT:
        comparing, has_register = "SETP" in name or name in ("PLOP3", "R2P"), False
        while rest and re.fullmatch(r"U?(R(\d+|Z)|P[\dT])", rest[0]):
            if "P" in rest[0]:
                written.update(_PREDICATE.findall(rest[0]))
            elif has_register or comparing:
                break
            else:
                has_register = True
                if not rest[0].endswith("Z"):
                    written.update(_span(rest[0], many))
            rest.pop(0)
    for operand in rest:
        read.update(_PREDICATE.findall(operand))
        for register, long in _REGISTER.findall(operand):
            wide = 2 if long else 1
            if "[" not in operand and name in ("STG", "ST", "STS"):
                wide = many
            read.update(_span(register, wide))
    if name.startswith("D") or "WIDE" in bits:
        for operand in rest[-1:]:
            for register, _ in _REGISTER.findall(operand):
                read.update(_span(register, 2))
    return frozenset(written), frozenset(read)


# ---- blocks


@dataclass
class Block:
    """Instructions that run one after the other, and the numbers of the blocks that may follow."""

    number: int
    code: list[Instruction] = field(default_factory=list)
    after: list[int] = field(default_factory=list)


def parse(text: str, kernel: str) -> list[Block]:
    """The basic blocks of a kernel, the first one its entry."""
    lines, labels, inside = [], {}, False
    for line in text.splitlines():
        if label := _LABEL.match(line.strip()):
            inside = inside or label[1] == kernel
            labels[label[1]] = len(lines)
        elif line.startswith("//---") and lines:
            break  # another section
        elif inside and (found := _LINE.match(line)):
            address, predicate, opcode, operands = found.groups()
            parts = tuple(part.strip() for part in operands.split(",") if part.strip())
            predicate = "" if predicate in (None, "PT", "UPT") else predicate
            lines.append((Instruction(int(address, 16), predicate, opcode, parts), operands))
    starts = {0, *labels.values()}
    for at, (one, _) in enumerate(lines):
        if one.jumps or one.name in ("BRX", "BRXU", "EXIT", "RET"):
            starts.add(at + 1)
    order = sorted(start for start in starts if start < len(lines))
    number_at = {start: number for number, start in enumerate(order)}
    blocks = []
    for number, (start, end) in enumerate(zip(order, [*order[1:], len(lines)], strict=True)):
        block = Block(number, [one for one, _ in lines[start:end]])
        last, operands = lines[end - 1]
        falls = True
        if last.jumps:
            block.after.append(number_at[labels[last.target]])
            falls = last.conditional
        elif last.name in ("BRX", "BRXU"):
            found = _TARGETS.search(operands)
            names = [name.strip() for name in found[1].split(",")] if found else []
            block.after.extend(number_at[labels[name]] for name in names if name in labels)
            falls = False
        elif last.name in ("EXIT", "RET"):
            falls = bool(last.predicate)
        if falls and end < len(lines):
            block.after.append(number_at[end])
        blocks.append(block)
    return blocks
