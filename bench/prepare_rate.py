"""Speed and memory of `prepare`, with reading and writing; the speed relative to the tokenizers library alone.

    .venv/bin/python -m bench.prepare_rate --sources='jsonl:DIR/*.jsonl.gz' --vocab=vocab.txt
    .venv/bin/python -m bench.prepare_rate --sources='jsonl:DIR/*.jsonl.gz' --vocab=vocab.txt --rounds=0 --memory

Records medians over the rounds. A round runs first the library, then `prepare`, on the same text and cores. The library
also encodes the duplicates, which `prepare` drops.

With `--memory`, the command `prepare` reads the text of the sources once, 4 times and 16 times, each time with other
distinct documents. The bench records the peak memory of all its processes together: of pages that several of them
share, each has its part.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.record import record
from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import sources, tokenizer
from symbert_jax.data.manifest import read_manifest
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.prepare.encoding import group_texts, split_text

SCALES = (1, 4, 16)
FILE_BYTES = 1 << 24  # of the copies of the text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", default="python-docs:stdlib", help="as data.sources, separated by commas")
    parser.add_argument("--vocab", default="train", help="as data.vocab")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--workers", type=int, default=0, help="as data.workers; the library uses all cores")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of the speed, of which the median counts")
    parser.add_argument("--memory", action="store_true", help="measure the memory, too")
    arguments = parser.parse_args()
    names = tuple(arguments.sources.split(","))
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder, "vocab.txt")
        counts = tokenizer.count_words(read(names)) if arguments.vocab == "train" else {}
        tokenizer.write_vocabulary(arguments.vocab, counts, ModelConfig().vocab_size, vocab.parent)
        data = DataConfig(dir=folder, sources=names, vocab=str(vocab), workers=arguments.workers)
        config = Config(model=ModelConfig(length=arguments.length), data=data)
        if arguments.rounds:
            record("prepare_rate", **measure_speed(config, arguments.rounds))
        if arguments.memory:
            record("prepare_memory", **measure_memory(config))


def read(names: tuple[str, ...]) -> Iterator[str]:
    return (text for name in names for text in sources.documents(name))


def change(config: Config, **fields: object) -> Config:
    """Returns the config with some fields of `data` changed."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def measure_speed(config: Config, rounds: int) -> dict[str, object]:
    texts, vocab = list(read(config.data.sources)), Path(config.data.vocab)
    seconds = []
    for i in range(rounds):
        corpus = f"{config.data.dir}/{i}"
        seconds.append((library_seconds(vocab, texts), prepare_seconds(change(config, dir=corpus))))
    splits = read_manifest(Path(corpus)).content["splits"].values()
    documents, tokens = (sum(split[name] for split in splits) for name in ("documents", "tokens"))
    library, ours = (statistics.median(times) for times in zip(*seconds, strict=True))
    return {
        "documents": documents,
        "tokens": tokens,
        "prepare_documents_per_second": round(documents / ours),
        "prepare_tokens_per_second": round(tokens / ours),
        "library_tokens_per_second": round(tokens / library),
        "ratio": round(statistics.median(round_library / round_ours for round_library, round_ours in seconds), 3),
    }


def library_seconds(vocab: Path, texts: list[str]) -> float:
    """Returns the time of `encode_batch_fast` alone, on pieces of similar size, because these make it fastest."""
    encoder = tokenizer.load(vocab, parse_special=False)
    batches = list(group_texts(piece for text in texts for piece in split_text(text)))
    start = time.perf_counter()
    for batch in batches:
        encoder.encode_batch_fast(batch, add_special_tokens=False)
    return time.perf_counter() - start


def prepare_seconds(config: Config) -> float:
    """Returns the time of reading, deduplication, tokenization and writing."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(config)
    return time.perf_counter() - start


def measure_memory(config: Config) -> dict[str, object]:
    folder = Path(config.data.dir)
    text_bytes, peaks, made = [], [], 0
    for scale in SCALES:
        for copy in range(made, scale):
            write_copy(read(config.data.sources), folder / "text", copy)
        made = scale
        text_bytes.append(sum(path.stat().st_size for path in (folder / "text").iterdir()))
        peaks.append(peak_bytes(change(config, dir=str(folder / f"memory-{scale}"), sources=(f"jsonl:{folder}/text",))))
    return {
        "scales": SCALES,
        "text_megabytes": [round(size / 1e6, 1) for size in text_bytes],
        "peak_megabytes": [round(peak / 1e6) for peak in peaks],
    }


def write_copy(texts: Iterator[str], folder: Path, copy: int) -> None:
    """Writes JSON lines with the texts, each with the number of the copy at its end, so that no two are equal."""
    folder.mkdir(exist_ok=True)
    number, file = 0, None
    for text in texts:
        if not file or file.tell() >= FILE_BYTES:
            if file:
                file.close()
            file, number = (folder / f"{copy:02d}-{number:04d}.jsonl").open("w"), number + 1
        file.write(json.dumps({"text": f"{text} {copy}"}) + "\n")
    if file:
        file.close()


def peak_bytes(config: Config) -> int:
    """Returns the peak memory of the command `prepare` and all its processes."""
    fields = {
        "model.length": config.model.length,
        "data.dir": config.data.dir,
        "data.sources": config.data.sources[0],
        "data.vocab": config.data.vocab,
        "data.workers": config.data.workers,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "symbert_jax", "prepare", "--config=configs/base.py", *flags]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(resident_bytes, with_descendants(process.pid))))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return peak


def with_descendants(process: int) -> list[int]:
    found = [process]
    for parent in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def resident_bytes(process: int) -> int:
    """Returns the proportional set size of a process; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
