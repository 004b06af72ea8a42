"""Changes of content: bytes, lines with their fields, and JSON."""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

INSERTED = {
    "a byte order mark": b"\xef\xbb\xbf",
    "a NUL": b"\0",
    "CR": b"\r",
    "CR LF": b"\r\n",
    "LF": b"\n",
    "a tab": b"\t",
    "a byte that is not UTF-8": b"\xff",
    "half a character": b"\xe4\xb8",
    "a surrogate": b"\xed\xa0\x80",
    "a line separator": "\u2028\x85\x0b".encode(),
    "a quote": b'"',
    "a bracket": b"{[",
    "blanks": b"   ",
    "a number": b"-9" + b"9" * 30,
    "5000 letters": b"a" * 5000,
}
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1")
# JSON texts that `json.dumps` cannot write. `dump` writes them in place of these names, which begin with U+0001.
_RAW = {
    "\x01deep": "[" * 100_000 + "]" * 100_000,
    "\x01objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "\x01huge": "1" + "0" * 5000,
    "\x01float": "1e999",
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 8, 1000, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, 1.0, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "1.5", "null", "\u00e9", "\ud800", "a\nb", "\0", "[MASK]", "../x", "a" * 5000, *_RAW),
    *([], [[]], {}, {"a": 1}, [None], [1, 2], ["a"], [{}]),
)


def choose(random: Random, actions: dict[Callable[..., Any], int]) -> Callable[..., Any]:
    """Returns one of the actions, at random by their weights."""
    return random.choices([*actions], [*actions.values()])[0]


def change_bytes(random: Random, content: bytes) -> tuple[bytes, str]:
    """Makes one to three changes of bytes."""
    descriptions = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content, description = choose(random, _BYTES)(random, content)
        descriptions.append(description)
    return content, ", ".join(descriptions)


def _flip(random: Random, content: bytes) -> tuple[bytes, str]:
    if not content:
        return content, "unchanged: empty"
    changed = bytearray(content)
    indices = [random.randrange(len(content)) for _ in range(random.choice((1, 1, 2, 8)))]
    for index in indices:
        changed[index] ^= random.choice((1, 2, 16, 128, 255))
    return bytes(changed), f"bytes changed at {indices}"


def _truncate(random: Random, content: bytes) -> tuple[bytes, str]:
    end = random.choice((random.randrange(len(content) + 1), len(content) // 2, max(0, len(content) - 1)))
    return content[:end], f"truncated to {end} bytes"


def _slice(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 2, 8, 100, len(content))))


def _delete(random: Random, content: bytes) -> tuple[bytes, str]:
    start, end = _slice(random, content)
    return content[:start] + content[end:], f"bytes {start} to {end} deleted"


def _duplicate(random: Random, content: bytes) -> tuple[bytes, str]:
    start, end = _slice(random, content)
    return content[:end] + content[start:end] + content[end:], f"bytes {start} to {end} duplicated"


def _insert(random: Random, content: bytes) -> tuple[bytes, str]:
    name, start = random.choice([*INSERTED]), random.choice((0, len(content), random.randrange(len(content) + 1)))
    return content[:start] + INSERTED[name] + content[start:], f"{name} inserted at byte {start}"


def _encode(random: Random, content: bytes) -> tuple[bytes, str]:
    encoding = random.choice(ENCODINGS)
    try:
        return content.decode().encode(encoding, "replace"), f"encoded as {encoding}"
    except UnicodeDecodeError:
        return content, "not re-encoded, because it is not UTF-8"


def _line_ends(random: Random, content: bytes) -> tuple[bytes, str]:
    end = random.choice((b"\r\n", b"\r", b"", b"\n\n", "\u2028".encode()))
    return content.replace(b"\n", end), f"line ends {end!r}"


_BYTES = {_flip: 4, _truncate: 3, _delete: 2, _duplicate: 2, _insert: 4, _encode: 1, _line_ends: 1}


def change_lines(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes, deletes, inserts or swaps lines, or changes the tab-separated fields of a line."""
    lines = content.split(b"\n")
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    fields = lines[i].split(b"\t")
    k = random.randrange(len(fields))
    match random.randrange(10):
        case 0:
            del lines[i]
            description = f"line {i} deleted"
        case 1:
            lines.insert(i, lines[j])
            description = f"line {j} inserted before line {i}"
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
            description = f"lines {i} and {j} swapped"
        case 3:
            lines.insert(i, b"")
            description = f"an empty line inserted before line {i}"
        case 4:
            lines[i] = b" " + lines[i] + random.choice((b" ", b"\t", b"\r"))
            description = f"whitespace around line {i}"
        case 5:
            lines[i] = lines[i].swapcase()
            description = f"line {i} in swapped case"
        case 6:
            lines[i] = b"\t".join([*fields[:k], *fields[k + 1 :]])
            description = f"field {k} of line {i} deleted"
        case 7:
            lines[i] = b"\t".join([*fields[:k], *fields[k:][::-1]])
            description = f"fields of line {i} from {k} on reversed"
        case 8:
            del lines[i + 1 :]
            description = f"lines after line {i} deleted"
        case _:
            value = random.choice((b"", b"0", b"-1", b"nan", b"1e999", b"x", b"\xff", b"[MASK]", b"\0", "½".encode()))
            lines[i] = b"\t".join([*fields[:k], value, *fields[k + 1 :]])
            description = f"field {k} of line {i} is {value!r}"
    return b"\n".join(lines), description


def dump(value: Any) -> str:
    """Returns JSON text, in which the texts of _RAW replace their names."""
    return re.sub(r'"\\u0001(\w+)"', lambda match: _RAW["\x01" + match[1]], json.dumps(value))


def change_json(random: Random, value: Any) -> tuple[Any, str]:
    """Replaces, renames, deletes or duplicates one part of a JSON value. Only `dump` can write the result."""
    path, parent, key, found = [], None, None, value
    while isinstance(found, dict | list) and found and (parent is None or random.random() < 0.75):
        keys = [*found] if isinstance(found, dict) else range(len(found))
        parent, key = found, random.choice(keys)
        path.append(str(key))
        found = parent[key]
    where = ".".join(path)
    if parent is None or random.random() < 0.03:
        value = random.choice(VALUES)
        return value, f"replaced by {_short(value)}"
    match random.randrange(12):
        case 0:
            del parent[key]
            return value, f"{where} deleted"
        case 1 if isinstance(parent, dict):
            name = random.choice((f"{key}x", "", "\u00e9", str(key).upper(), "a" * 3000, *parent))
            parent[name] = parent.pop(key)
            return value, f"{where} renamed to {name[:40]!r}"
        case 1 | 2 if isinstance(parent, list):
            parent.insert(key, found)
            return value, f"{where} duplicated"
        case 3:
            parent[key] = [found]
        case 4:
            parent[key] = {"": found}
        case 5:
            parent[key] = str(found)
        case 6 if type(found) in (int, float):
            parent[key] = random.choice((-found, found + 1, found * 10**9, float(found), -1, 0))
        case 6 if isinstance(found, str):
            parent[key] = random.choice((found + "x", found.swapcase(), found[:-1], f" {found}", found * 100))
        case 7:
            parent[key] = random.choice([*(parent.values() if isinstance(parent, dict) else parent)])
        case _:
            parent[key] = random.choice(VALUES)
    return value, f"{where} is {_short(parent[key])}, not {_short(found)}"


def _short(value: Any) -> str:
    """Returns a description of a value, 60 characters at most."""
    return re.sub(r"\s+", " ", ascii(value))[:60]


def change_json_text(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes a part of a JSON document or, if the content is not JSON, some bytes."""
    try:
        value, description = change_json(random, json.loads(content))
    except ValueError:
        return change_bytes(random, content)
    return dump(value).encode(), description


def change_json_line(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes one line of JSON lines."""
    lines = content.split(b"\n")
    i = random.randrange(max(1, len(lines) - 1))
    lines[i], description = change_json_text(random, lines[i])
    return b"\n".join(lines), f"line {i}: {description}"
