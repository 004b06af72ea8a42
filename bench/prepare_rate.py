"""Speed of `prepare`, with reading and writing, relative to the tokenizers library on the same documents.

    .venv/bin/python -m bench.prepare_rate --sources='jsonl:DIR/*.jsonl.gz' --vocab=vocab.txt

Records medians over the rounds. A round runs first the library, then `prepare`, on the same cores. The library also
encodes the duplicates, which `prepare` drops.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

from bench.record import record
from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import sources, tokenizer
from symbert_jax.data.manifest import read_manifest
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.prepare.encoding import batch_pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", default="python-docs:stdlib", help="as data.sources, separated by commas")
    parser.add_argument("--vocab", default="train", help="as data.vocab")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median counts")
    arguments = parser.parse_args()
    source_names = tuple(arguments.sources.split(","))
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder, "vocab.txt")
        texts = [text for name in source_names for text in sources.documents(name)]
        counts = tokenizer.count_words(texts) if arguments.vocab == "train" else {}
        tokenizer.write_vocabulary(arguments.vocab, counts, ModelConfig().vocab_size, vocab.parent)
        rounds = []
        for i in range(arguments.rounds):
            data = DataConfig(dir=f"{folder}/{i}", sources=source_names, vocab=str(vocab))
            config = Config(model=ModelConfig(length=arguments.length), data=data)
            rounds.append((library_seconds(vocab, texts), prepare_seconds(config)))
        splits = read_manifest(Path(data.dir)).content["splits"].values()
    documents, tokens = (sum(split[name] for split in splits) for name in ("documents", "tokens"))
    library, ours = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    result = {
        "documents": documents,
        "tokens": tokens,
        "prepare_documents_per_second": round(documents / ours),
        "prepare_tokens_per_second": round(tokens / ours),
        "library_tokens_per_second": round(tokens / library),
        "ratio": round(statistics.median(round_library / round_ours for round_library, round_ours in rounds), 3),
    }
    record("prepare_rate", **result)


def library_seconds(vocab: Path, texts: list[str]) -> float:
    """Returns the time of `encode_batch_fast` alone, on batches of similar size, because these make it fastest."""
    encoder = tokenizer.load(vocab, parse_special=False)
    batches = [[piece for piece, _ in batch] for batch in batch_pieces(texts)]
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


if __name__ == "__main__":
    main()
