"""Text of the package as Markdown."""

import re


def escape(text: str) -> str:
    """Returns Markdown that shows `text` as it is, except that code between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<\[\]$])", r"\\\1", part) for part in parts)
