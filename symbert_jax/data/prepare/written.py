"""What an engine has written, and what it must be."""

from typing import Any, NamedTuple

from symbert_jax.config import Config
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare.row_files import RowFile
from symbert_jax.data.prepare.statistics import Statistics, frequent_tokens, length_quantiles
from symbert_jax.data.tokenizer import TextTokenizer
from symbert_jax.errors import UserError

_FREQUENT_TOKENS = 50  # how many the manifest names


class Written(NamedTuple):
    """A corpus without its description and manifest."""

    statistics: Statistics
    files: dict[str, list[RowFile]]  # by split, in order


def check_rows(config: Config, counts: Statistics) -> None:
    """Raises `UserError` if there is too little text for a row of training or, if the config asks for a validation
    split, for a row of validation."""
    (tokens, _), (train, validation) = counts.tokens.sum(axis=1).tolist(), counts.documents.sum(axis=1).tolist()
    inner = config.model.length - 2 if config.data.packing == "concat" else 1  # tokens that fill a row
    has_row = counts.tokens.sum(axis=1) + counts.documents.sum(axis=1) >= inner  # each document has a [SEP]
    if not has_row[SPLITS.index("train")]:
        found = f"{tokens} tokens of training text"
        raise UserError("data.sources", found, f"enough for a row of model.length={config.model.length}")
    if config.data.validation_fraction and not has_row[SPLITS.index("validation")]:
        chosen = f"{validation} of {train + validation} documents"
        found = f"{config.data.validation_fraction}, which chose {chosen}"
        raise UserError("data.validation_fraction", found, "enough for a row")


def manifest_facts(written: Written, recipe: dict[str, Any], tokenizer: TextTokenizer) -> dict[str, Any]:
    """Returns the entries of the manifest. They depend on the recipe and the documents alone."""
    counts = written.statistics
    inner, is_concatenated = recipe["length"] - 2, recipe["packing"] == "concat"
    splits = {}
    for split, documents, tokens in zip(SPLITS, counts.documents, counts.tokens, strict=True):
        files = written.files[split]
        unknown = 0 if tokenizer.unk_id is None else int(tokens[tokenizer.unk_id])
        num_rows, num_documents, num_tokens = sum(file.rows for file in files), int(documents.sum()), int(tokens.sum())
        splits[split] = {
            "documents": num_documents,
            "rows": num_rows,
            "tokens": num_tokens,
            "tail_tokens_dropped": num_tokens + num_documents - num_rows * inner if is_concatenated else 0,
            "padding_share": round(sum(file.padding for file in files) / max(num_rows * recipe["length"], 1), 6),
            "unk_tokens": unknown,
            "unk_share": round(unknown / max(num_tokens, 1), 4),
            "most_maskable": max((file.most_maskable for file in files), default=0),
            "fewest_maskable": min((file.fewest_maskable for file in files), default=recipe["length"]),
        }
    of_sources = (counts.documents.sum(axis=0).tolist(), counts.duplicates.tolist())
    documents, duplicates = (dict(zip(recipe["sources"], numbers, strict=True)) for numbers in of_sources)
    frequent = {tokenizer.tokens[i]: count for i, count in frequent_tokens(counts, _FREQUENT_TOKENS).items()}
    return recipe | {
        "documents": documents,
        "duplicates": duplicates,
        "splits": splits,
        "document_tokens": length_quantiles(counts),
        "frequent_tokens": frequent,
    }
