"""python -m symbert_jax pretrain --config=configs/wiki_books.py --workdir=runs/wiki_books

Time: as base.py, 2.5 hours on 16 TPU v5e, by the TPU compiler's estimate; not measured.
Result: unknown; not run at full size.

The paper's recipe on a corpus like BERT's, English Wikipedia and a directory of books:

    python -m symbert_jax prepare --config=configs/wiki_books.py

This command reads Wikipedia as TFDS prepared it (`tfds build wikipedia/20230601.en`, or a copy in a bucket, by
`--config.data.sources=tfds:gs://BUCKET/wikipedia/20230601.en/1.0.0,bookcorpus:books`) and the `.txt`, `.txt.gz` or
`.jsonl.gz` files in `books/`.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("base")
    c.data.update(dir="data/wiki_books_512", sources=("tfds:wikipedia/20230601.en", "bookcorpus:books"))
    return c
