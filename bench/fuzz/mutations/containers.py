"""Changes of files that hold tensors or records.

Checksums, and most lengths, are recomputed after the change, so that a reader gets as far as the change.
"""

import json
import struct
import tempfile
from pathlib import Path
from random import Random

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorboardX.record_writer import masked_crc32c

from bench.fuzz.mutations.content import change_bytes, change_json, dump


def change_safetensors(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes the header or one number of a safetensors file; sometimes also states a wrong header length."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = header[random.choice([name for name in header if name != "__metadata__"])]
    match random.randrange(6):
        case 0:
            entry["dtype"] = random.choice(
                ("F64", "F16", "BF16", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "F8_E4M3", "C64")
            )
            description = f"header: a tensor of type {entry['dtype']}"
        case 1:
            entry["shape"] = random.choice(
                ([], [0], [1], [-1], [2**63], [2**31, 2**31], [*entry["shape"], 1], entry["shape"][::-1], [2**64])
            )
            description = f"header: a tensor of shape {entry['shape']}"
        case 2:
            entry["data_offsets"] = random.choice(([0, 0], [-1, 4], [4, 0], [0, 2**63], [0, len(data)], [0], []))
            description = f"header: a tensor with offsets {entry['data_offsets']}"
        case 3:
            number = random.choice((float("nan"), float("inf"), 1e38, 0.0))
            start = random.randrange(max(1, len(data) // 4)) * 4
            data = data[:start] + struct.pack("<f", number) + data[start + 4 :]
            description = f"data with {number} at byte {start}"
        case _:
            header, description = change_json(random, header)
            description = f"header: {description}"
    text = dump(header).encode()
    size = random.choice((len(text),) * 8 + (0, len(text) + 1, 2**63, 10**8))
    if size != len(text):
        description += f", header length given as {size}"
    return struct.pack("<Q", size) + text + data, description


def change_tf_record(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes one record of a TFRecord file; sometimes also states a wrong length of this record."""
    records, start = [], 0
    while start < len(content):
        (length,) = struct.unpack("<Q", content[start : start + 8])
        records.append(content[start + 12 : start + 12 + length])
        start += length + 16
    i = random.randrange(len(records))
    records[i], description = change_bytes(random, records[i])
    sizes = [len(record) for record in records]
    if not random.randrange(6):
        sizes[i] = random.choice((0, sizes[i] + 1, 2**31, 2**40, 2**63, 2**64 - 1))
        description += f", record length given as {sizes[i]}"
    framed = []
    for record, length in zip(records, sizes, strict=True):
        for part in (struct.pack("<Q", length), record):
            framed += [part, struct.pack("<I", masked_crc32c(part))]
    return b"".join(framed), f"record {i}: {description}"


def change_array_record(random: Random, content: bytes) -> tuple[bytes, str]:
    """Changes one record of an ArrayRecord file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        path.write_bytes(content)
        reader = ArrayRecordReader(str(path))
        records = reader.read(0, reader.num_records())
        reader.close()
        i = random.randrange(len(records))
        records[i], description = change_bytes(random, records[i])
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
        writer.close()
        return path.read_bytes(), f"record {i}: {description}"
