"""Tokenizers of several kinds, which tests/interop/record_tokenizers.py made, and texts to encode."""

import json
import sysconfig
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "fixtures" / "tokenizers"
KINDS = ("roberta", "modernbert", "xlm_roberta", "wordpiece")


def recorded(kind: str) -> dict[str, Any]:
    """Returns what transformers makes of sample texts."""
    return json.loads((FOLDER / kind / "recorded.json").read_text())


def documents(count: int) -> list[str]:
    """Returns documents of about 300 characters from the source of Python's standard library."""
    texts: list[str] = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text(encoding="utf-8")
        texts += [text[start : start + 300] for start in range(0, len(text), 300)]
        if len(texts) >= count:
            return texts[:count]
    raise AssertionError(f"only {len(texts)} documents")
