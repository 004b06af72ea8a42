"""corpus.html: the counts of a corpus with histograms, in one file that loads nothing."""

from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Int

from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare.statistics import Statistics
from symbert_jax.render import PAGE_STYLE, html_page, html_table, to_svg

PAGE = "corpus.html"


def format_page(facts: Mapping[str, Any], counts: Statistics) -> str:
    """Returns the page. It depends on the recipe and the documents alone.

    facts: the entries of the manifest.
    """
    head = ["split", "documents", "rows", "tokens", "[UNK]", "[PAD]"]
    splits = [(split, facts["splits"][split]) for split in SPLITS]
    rows = [
        [split, *(f"{found[name]:,}" for name in ("documents", "rows", "tokens"))]
        + [f"{found[name]:.2%}" for name in ("unk_share", "padding_share")]
        for split, found in splits
    ]
    sources = [
        [source, f"{number:,}", f"{facts['duplicates'][source]:,}"] for source, number in facts["documents"].items()
    ]
    lengths = facts["document_tokens"]
    total = max(sum(found["tokens"] for _, found in splits), 1)
    frequent = [[token, f"{count:,}", f"{count / total:.2%}"] for token, count in facts["frequent_tokens"].items()]
    by_documents = counts.length_counts.sum(axis=0)
    parts = [
        "<h1>Corpus</h1>",
        f"<p>Rows of {facts['length']} tokens, packing {escape(facts['packing'])}, "
        f"vocabulary {escape(facts['vocab'])}.</p>",
        html_table(head, rows, kind="numbers"),
        html_table(["source", "documents", "duplicates dropped"], sources, kind="numbers"),
        "<h2>Lengths of documents</h2>",
        html_table(["tokens", *lengths], [["document", *(f"{number:,}" for number in lengths.values())]], "numbers"),
        '<div class="plots">',
        _histogram("Documents by their length", counts.lengths, by_documents, "documents"),
        _histogram("Tokens by the length of their document", counts.lengths, by_documents * counts.lengths, "tokens"),
        "</div>",
        "<h2>Most frequent tokens</h2>",
        html_table(["token", "occurrences", "share"], frequent, kind="numbers"),
    ]
    return html_page("Corpus", parts)


def _histogram(title: str, lengths: Int[np.ndarray, " n"], weights: Int[np.ndarray, " n"], unit: str) -> str:
    """Returns a figure with the sum of the weights in bins of lengths that double from bin to bin."""
    edges = [2.0**power for power in range(int(lengths.max(initial=1)).bit_length() + 1)]
    with plt.rc_context(PAGE_STYLE):
        figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
        axes.hist(lengths, bins=edges, weights=weights, color="#4477aa")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens in a document", ylabel=unit)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        svg = to_svg(figure, title)
    return f"<figure>\n<figcaption>{escape(title)}</figcaption>\n{svg}</figure>"
