"""What goes wrong with files on their way: bytes, lines, JSON, archives, and records that are changed by chance.

Each takes a `random.Random`, so that a seed repeats what it did, and returns what it did in words.
"""

import bz2
import gzip
import json
import lzma
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorboardX.record_writer import masked_crc32c

Random = random.Random

# What stands in the place of a file after a download or a checkout that went wrong.
OTHERS = {
    "an empty file": b"",
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 440449768\n",
    "a page of HTML": b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n",
    "a PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde",
    "gzip": gzip.compress(b'{"text": "something else"}\n' * 9, mtime=0),
    "half a gzip": gzip.compress(bytes(range(256)) * 40, mtime=0)[:150],
    "a zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(40),
    "zstd": b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello",
    "zeros": bytes(4096),
    "bytes of 255": b"\xff" * 100,
    "a line end": b"\n",
    "null": b"null",
    "a JSON list": b"[]",
    "a JSON object": b"{}",
    "a JSON string": b'"text"',
    "an error of a server": b'{"error": "Repository not found"}',
    "a NUL": b"\0",
}
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
# Texts that `dump` writes as they could never be written by `json.dumps`.
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


def chosen(random: Random, actions: dict[Callable[..., Any], int]) -> Callable[..., Any]:
    """One of the actions, each as often as its weight says."""
    return random.choices([*actions], [*actions.values()])[0]


# Bytes


def change_bytes(random: Random, content: bytes) -> tuple[bytes, str]:
    """Content with one to three changes."""
    told = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content, what = chosen(random, _BYTES)(random, content)
        told.append(what)
    return content, ", ".join(told)


def _flip(random: Random, content: bytes) -> tuple[bytes, str]:
    if not content:
        return content, "nothing to flip"
    changed, places = bytearray(content), [random.randrange(len(content)) for _ in range(random.choice((1, 1, 2, 8)))]
    for place in places:
        changed[place] ^= random.choice((1, 2, 16, 128, 255))
    return bytes(changed), f"bytes flipped at {places}"


def _truncate(random: Random, content: bytes) -> tuple[bytes, str]:
    end = random.choice((random.randrange(len(content) + 1), len(content) // 2, max(0, len(content) - 1)))
    return content[:end], f"cut off after byte {end}"


def _slice(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 2, 8, 100, len(content))))


def _delete(random: Random, content: bytes) -> tuple[bytes, str]:
    start, end = _slice(random, content)
    return content[:start] + content[end:], f"bytes {start} to {end} deleted"


def _duplicate(random: Random, content: bytes) -> tuple[bytes, str]:
    start, end = _slice(random, content)
    return content[:end] + content[start:end] + content[end:], f"bytes {start} to {end} doubled"


def _insert(random: Random, content: bytes) -> tuple[bytes, str]:
    what, place = random.choice([*INSERTED]), random.choice((0, len(content), random.randrange(len(content) + 1)))
    return content[:place] + INSERTED[what] + content[place:], f"{what} inserted at byte {place}"


def _encode(random: Random, content: bytes) -> tuple[bytes, str]:
    encoding = random.choice(ENCODINGS)
    try:
        return content.decode().encode(encoding, "replace"), f"written as {encoding}"
    except UnicodeDecodeError:
        return content, "no text to encode"


def _line_ends(random: Random, content: bytes) -> tuple[bytes, str]:
    end = random.choice((b"\r\n", b"\r", b"", b"\n\n", "\u2028".encode()))
    return content.replace(b"\n", end), f"line ends {end!r}"


_BYTES = {_flip: 4, _truncate: 3, _delete: 2, _duplicate: 2, _insert: 4, _encode: 1, _line_ends: 1}


# Lines and fields


def change_lines(random: Random, content: bytes) -> tuple[bytes, str]:
    """Content with lines, or tab-separated fields of lines, taken away, doubled, swapped, or replaced."""
    lines = content.split(b"\n")
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    fields = lines[i].split(b"\t")
    k = random.randrange(len(fields))
    match random.randrange(10):
        case 0:
            del lines[i]
            told = f"line {i} deleted"
        case 1:
            lines.insert(i, lines[j])
            told = f"line {j} again before line {i}"
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
            told = f"lines {i} and {j} swapped"
        case 3:
            lines.insert(i, b"")
            told = f"an empty line before line {i}"
        case 4:
            lines[i] = b" " + lines[i] + random.choice((b" ", b"\t", b"\r"))
            told = f"blanks around line {i}"
        case 5:
            lines[i] = lines[i].swapcase()
            told = f"line {i} in the other case"
        case 6:
            del fields[k]
            lines[i], told = b"\t".join(fields), f"field {k} of line {i} deleted"
        case 7:
            lines[i], told = b"\t".join([*fields[:k], *fields[k:][::-1]]), f"fields of line {i} from {k} on turned"
        case 8:
            lines[:] = lines[: i + 1]
            told = f"lines after line {i} deleted"
        case _:
            value = random.choice((b"", b"0", b"-1", b"nan", b"1e999", b"x", b"\xff", b"[MASK]", b"\0", "½".encode()))
            lines[i], told = b"\t".join([*fields[:k], value, *fields[k + 1 :]]), f"field {k} of line {i} is {value!r}"
    return b"\n".join(lines), told


# JSON


def dump(value: Any, **options: Any) -> str:
    """JSON, with what `json.dumps` would never write where a value stands for it."""
    text = json.dumps(value, **options)
    return re.sub(r'"\\u0001(\w+)"', lambda found: _RAW["\x01" + found[1]], text)


def change_json(random: Random, value: Any) -> tuple[Any, str]:
    """A JSON value with one of its parts replaced, renamed, deleted or doubled; `dump` writes it."""
    path, parent, key = [], None, None
    found = value
    while isinstance(found, dict | list) and found and (parent is None or random.random() < 0.75):
        keys = [*found] if isinstance(found, dict) else range(len(found))
        parent, key = found, random.choice(keys)
        path.append(str(key))
        found = parent[key]
    where = ".".join(path)
    if parent is None or random.random() < 0.03:
        value = random.choice(VALUES)
        return value, f"all of it is {_short(value)}"
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
            return value, f"{where} doubled"
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
            others = [other for other in (parent.values() if isinstance(parent, dict) else parent)]
            parent[key] = random.choice(others)
        case _:
            parent[key] = random.choice(VALUES)
    return value, f"{where} is {_short(parent[key])} for {_short(found)}"


def _short(value: Any) -> str:
    return re.sub(r"\s+", " ", ascii(value))[:60]


def change_json_text(random: Random, content: bytes) -> tuple[bytes, str]:
    """A changed JSON document, or the bytes changed where it is none."""
    try:
        value, told = change_json(random, json.loads(content))
    except ValueError:
        return change_bytes(random, content)
    return dump(value).encode(), told


def change_json_line(random: Random, content: bytes) -> tuple[bytes, str]:
    """JSON lines of which one is changed."""
    lines = content.split(b"\n")
    i = random.randrange(max(1, len(lines) - 1))
    lines[i], told = change_json_text(random, lines[i])
    return b"\n".join(lines), f"line {i}: {told}"


# Containers


def change_safetensors(random: Random, content: bytes) -> tuple[bytes, str]:
    """A file of safetensors with another header: types, shapes, offsets, names."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[random.choice([name for name in header if name != "__metadata__"])]
    match random.randrange(6):
        case 0:
            entry["dtype"] = random.choice(
                ("F64", "F16", "BF16", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "F8_E4M3", "C64")
            )
            told = f"a tensor of type {entry['dtype']}"
        case 1:
            entry["shape"] = random.choice(
                ([], [0], [1], [-1], [2**63], [2**31, 2**31], [*entry["shape"], 1], entry["shape"][::-1], [2**64])
            )
            told = f"a tensor of shape {entry['shape']}"
        case 2:
            entry["data_offsets"] = random.choice(([0, 0], [-1, 4], [4, 0], [0, 2**63], [0, len(data)], [0], []))
            told = f"a tensor at {entry['data_offsets']}"
        case 3:
            value = struct.pack("<f", random.choice((float("nan"), float("inf"), 1e38, 0.0)))
            at = random.randrange(max(1, len(data) // 4)) * 4
            data, told = data[:at] + value + data[at + 4 :], f"another number at {at}"
        case _:
            header, told = change_json(random, header)
    text = dump(header).encode()
    size = random.choice((len(text),) * 8 + (0, len(text) + 1, 2**63, 10**8))
    return struct.pack("<Q", size) + text + data, f"header: {told}" + (f", told as {size}" * (size != len(text)))


def change_tf_record(random: Random, content: bytes) -> tuple[bytes, str]:
    """A TFRecord file with one record changed and right checksums."""
    records, at = [], 0
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        records.append(content[at + 12 : at + 12 + length])
        at += length + 16
    i = random.randrange(len(records))
    records[i], told = change_bytes(random, records[i])
    sizes = [len(record) for record in records]
    if not random.randrange(6):
        sizes[i] = random.choice((0, sizes[i] + 1, 2**31, 2**40, 2**63, 2**64 - 1))
        told = f"said to have {sizes[i]} bytes"
    framed = []
    for record, length in zip(records, sizes, strict=True):
        size = struct.pack("<Q", length)
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (size, record))
        framed += [size, next(sums), record, next(sums)]
    return b"".join(framed), f"record {i}: {told}"


def change_array_record(random: Random, path: Path) -> str:
    """Writes an ArrayRecord file anew with one record changed."""
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.read(0, reader.num_records())
        reader.close()
    except Exception:  # an earlier change left none
        return _rewrite(random, path)
    i = random.randrange(len(records))
    records[i], told = change_bytes(random, records[i])
    path.unlink()
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    return f"record {i}: {told}"


_ARCHIVES = {".gz": gzip, ".bz2": bz2, ".xz": lzma}


# Files


def change_file(random: Random, path: Path) -> str:
    """Changes one file by what it is, or leaves another thing in its place."""
    how = {_replace: 3, _rewrite: 3}
    inner = "".join(part for part in path.suffixes if part not in _ARCHIVES) or path.name
    structured = next((change for suffix, change in _BY_NAME.items() if re.search(suffix, inner)), None)
    if structured:
        how[lambda random, path: _rewrite(random, path, structured)] = 8
    if "array_record" in path.name:
        how[change_array_record] = 4
    return f"{path.name}: {chosen(random, how)(random, path)}"


_BY_NAME = {
    r"\.jsonl$": change_json_line,
    r"\.json$|^_METADATA$|_CHECKPOINT_METADATA$|^_sharding$|^metrics$": change_json_text,
    r"\.safetensors$": change_safetensors,
    r"\.tfrecord": change_tf_record,
    r"\.(txt|tsv)$": change_lines,
}


def _rewrite(random: Random, path: Path, change: Callable = change_bytes) -> str:
    """The content of an archive is changed inside or outside."""
    archive = _ARCHIVES.get(path.suffix)
    content = path.read_bytes()
    try:
        if archive and (change is not change_bytes or random.random() < 0.5):
            changed, told = change(random, archive.decompress(content))
            path.write_bytes(archive.compress(changed))
            return f"inside: {told}"
        changed, told = change(random, content)
    except Exception:  # an earlier change left nothing of that form
        changed, told = change_bytes(random, content)
    path.write_bytes(changed)
    return told


def _replace(random: Random, path: Path) -> str:
    siblings = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    match random.randrange(8):
        case 0:
            path.unlink()
            return "removed"
        case 1:
            path.unlink()
            path.mkdir()
            return "a folder in its place"
        case 2:
            path.unlink()
            path.symlink_to(random.choice(("nowhere", path.name, "/dev/null")))
            return f"a link to {path.readlink()} in its place"
        case 3 if siblings:
            other = random.choice(siblings)
            shutil.copyfile(other, path)
            return f"{other.name} in its place"
        case _:
            what = random.choice([*OTHERS])
            path.write_bytes(OTHERS[what])
            return f"{what} in its place"


def change_folder(random: Random, folder: Path, files: list[Path] | None = None) -> list[str]:
    """Changes one file of a folder, seldom two or three."""
    told = []
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        there = sorted(path for path in files or folder.rglob("*") if path.is_file() and not path.is_symlink())
        if there:
            told.append(change_file(random, random.choice(there)))
    return told


# What a user may type


def words(text: str) -> list[str]:
    return text.split()


TEXTS = (
    *words("0 1 -1 2 3 8 16 00 1_000 0x10 1e3 1e-400 1e400 0.1 1.5 nan inf -inf Infinity True true no None null"),
    *words("2147483648 4294967296 9223372036854775808 1,2 (1,2) [1,2] {} [ ( (((( () , ,, a,b 'a','b' % %s %d"),
    *words("standard train sst2 sst2,rte best splash cudnn pairwise float32 identity full 1:2 3:1 a:b 10:15 0:0"),
    *words("v5e:2x2 @ x@1 @1 run@40 run@x run@-1 - -- --x * [x] __import__ \u0663 \u00bd \u00b2 \u00e9\u4e2d \udcff"),
    *("", " ", "1 2", "a, b", "a\nb", "\t", "\\", "'", '"', '"a,b"', '"a', "lambda: 0", "\u202e", "\x1b[31m"),
    *("a" * 5000, "9" * 5000, "1" + "0" * 400, "run@" + "9" * 40),
)
PATHS = (
    *words(". .. ./ a/b/c ~ ~/x ~nobody_of_that_name/x /dev/null /dev/null/x /proc/self/x [x] * ** \\ \u00e9 \udcff"),
    *words("s3://bucket/x x:// run corpus text0.txt vocab.txt tiny.py nowhere run/checkpoints run/checkpoints/40"),
    *("", "a\nb", "a b", "a" * 300, "a/" * 3000),
)
SOURCES = (
    *words("jsonl:*.jsonl jsonl: jsonl text:*.txt text:[ text:[x].txt text:nowhere text:. text:~x text:*.txt, TEXT:*"),
    *words("bookcorpus:. bookcorpus: bookcorpus:nowhere tfds: tfds:. tfds:./nowhere tfds:a:b tfds:/// tfds:x://y"),
    *words("tfds:wikipedia/20230601.en tfds:s3://bucket/x python-docs:x python-docs : wiki text:*.txt,text:*.txt"),
    *('"text:a,b.txt"', "text:tiny.py", "jsonl:*.txt", "text:\udcff"),
)


def any_text(random: Random, value: object = "") -> str:
    """What a user may give a flag; `value` is what it is by default."""
    match random.randrange(8):
        case 0:
            return random.choice(PATHS)
        case 1:
            return random.choice(SOURCES)
        case 2:
            given = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            return random.choice((given, f" {given} ", given * 2, f"-{given}", f"{given}.0", f"{given},{given}"))
        case 3:
            return str(random.choice((1, 2, 8, 16, 32, 64, 128)) * random.choice((1, 1, 1, 2**10, 2**20, 2**31)))
        case 4 | 5 if isinstance(value, int | float):
            return str(random.choice((value * 2, value // 2, value / 2, value + 1, 1, 2, 4, 0.5, True, not value)))
        case _:
            return random.choice(TEXTS)
