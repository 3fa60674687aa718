"""A folder of kept results, one file each: written whole or not at all, checked when read, the least used dropped.

Processes may share a folder, and files may vanish from it at any time. Where it cannot be used, that is an OSError.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

ENTRY, PARTIAL = ".kept", ".partial"
_CHECKSUM = hashlib.sha256().digest_size


def read(folder: Path, key: str) -> bytes | None:
    """What is kept under `key`; None where there is nothing or its checksum is wrong."""
    path = folder / (key + ENTRY)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    data, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if hashlib.sha256(data).digest() != checksum:
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read
        os.utime(path)
    return data


def write(folder: Path, key: str, data: bytes, limit: int) -> None:
    """Keep `data` under `key`, and drop what was used least recently where the folder holds more than `limit` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{key}.{secrets.token_hex(8)}{PARTIAL}"
    try:
        partial.write_bytes(data + hashlib.sha256(data).digest())
        partial.replace(folder / (key + ENTRY))
    finally:
        partial.unlink(missing_ok=True)
    files = sorted(_files(folder))  # what a killed process has left half-written goes in its turn
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def sizes(folder: Path) -> list[int]:
    """The size of each entry in bytes."""
    return [size for _, size, path in _files(folder) if path.suffix == ENTRY]


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """When each file was last used, its size and its path; what is not ours is left alone."""
    found = []
    for path in folder.iterdir():
        if path.suffix in (ENTRY, PARTIAL) and path.is_file():
            with contextlib.suppress(FileNotFoundError):  # another process has just dropped it
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
    return found
