"""File names for people and programs: on Linux they are bytes, and need be neither UTF-8 nor printable."""

import os
from typing import Any


def printable(name: str) -> str:
    """Returns a name on one line that any terminal can show: what cannot be shown is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in in_utf8(name)
    )


def in_utf8(value: Any) -> Any:
    """Escapes in a text, or in the lists and dictionaries around texts, the bytes that are not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {in_utf8(key): in_utf8(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_utf8(inner) for inner in value]
    return value


def as_bytes(path: str) -> bytes:
    """Returns a path as the system knows it, for TensorFlow, which refuses a text that is not UTF-8."""
    return os.fsencode(path)
