"""Validation losses to compare runs with: those of the paper, or those in a file.

The paper's curves are not part of this package. They are downloaded from the authors' repository when they are first
needed, and kept in the user's cache.
"""

import csv
import hashlib
import http.client
import io
import math
import re
import urllib.request
from typing import NamedTuple

from etils import epath

from symbert_jax.errors import UserError, printable
from symbert_jax.interop.architecture import AFFINITY
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, lock, read_text, user_cache, write_whole

Curves = dict[str, dict[int, float]]  # validation losses in nats by step, by the name of the curve


class Reference(NamedTuple):
    name: str
    title: str
    curves: Curves
    tokens_per_step: int | None  # None: unknown

    @property
    def labels(self) -> list[str]:
        """The names of the curves, in their order, such as "pairwise (paper)": runs may have the same names."""
        return [f"{name} ({self.name})" for name in self.curves]


class PaperCurves(NamedTuple):
    """A file of the authors' repository."""

    model: str
    file: str
    sha256: str


URL = (
    "https://raw.githubusercontent.com/mcrts/ACL2024-SymmetricAttentionBert/"
    "fb6dcbc346d17b3aa95488c172df25b39209f6c3/notebooks/paper"
)
PAPER = {  # by the value of --reference
    "paper": PaperCurves(
        "BERT-base",
        "validation_loss_bert_base.csv",
        "964592d92f4203589f10619cd386167c0cb04b5e53f7be76e204c5b8d64362ae",
    ),
    "paper-small": PaperCurves(
        "BERT-small",
        "validation_loss_bert_small.csv",
        "035b76e68bfa40b71d235c070852cffe59ba999c0e56137fe268ac903038d0dc",
    ),
}
# From the scripts in experiments/acl2024 of that repository, the same for both models.
PAPER_STEPS_PER_ROW = 250
PAPER_TOKENS_PER_STEP = 256 * 512
FORMAT = "the header step,NAME,NAME…, then per line a step and a loss for each name"
TIMEOUT = 30  # seconds
MAX_BYTES = 1 << 24  # far more than either file has


def read_reference(source: str) -> Reference:
    """Returns the curves of the paper, for a key of PAPER, or those in a file of `FORMAT`.

    Raises:
      UserError: the file is missing or damaged, or the curves of the paper cannot be downloaded.
    """
    if source in PAPER:
        paper = PAPER[source]
        curves = parse_paper_curves(_read_paper_file(paper))
        return Reference(source, f"{paper.model} in the paper", curves, PAPER_TOKENS_PER_STEP)
    file = absolute(source, "reference")
    with bucket_errors_as_user_errors("reference", file, "a bucket that can be read"):
        if not file.exists():
            raise UserError("reference", f"no file {file}", f"{', '.join(PAPER)}, or a CSV file with {FORMAT}")
        curves = parse_curves(read_text(file, "reference"), f"{file}")
    return Reference(printable(file.stem), printable(file.name), curves, None)


def parse_curves(text: str, where: str) -> Curves:
    """Returns the curves in a text of `FORMAT`. Empty cells and empty lines are ignored.

    where: names the text in errors.

    Raises:
      UserError: the text does not have this format, or holds no loss.
    """
    try:
        head, *rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (csv.Error, ValueError) as error:  # ValueError: no line
        raise UserError("reference", f"{where}: {error}", FORMAT) from None
    names = head[1:]
    if head[:1] != ["step"] or not names or "" in names or len(set(names)) < len(names):
        raise UserError("reference", f"{where} with the header {','.join(head)[:80]!r}", "step,NAME,NAME…")
    curves: Curves = {printable(name): {} for name in names}
    for number, row in enumerate(rows, start=2):
        try:
            for curve, cell in zip(curves.values(), row[1:], strict=True) if row else ():
                if cell:
                    curve[_to_step(row[0])] = _to_loss(cell)
        except ValueError:
            wanted = f"a step and {len(names)} losses in nats, of which some may be empty"
            raise UserError("reference", f"{where}: {','.join(row)[:80]!r} in row {number}", wanted) from None
    if not any(curves.values()):
        raise UserError("reference", f"{where} without a loss", FORMAT)
    return {name: curve for name, curve in curves.items() if curve}


def parse_paper_curves(text: str) -> Curves:
    """Returns the curves in a file of the authors' repository, which Weights & Biases exported.

    Its columns are named like `bert_base_vanilla_20240204-093411 - eval/loss`. Its column `Step` counts log entries, so
    the step of a row follows from its number.
    """
    rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    curves = {}
    for attention, name in AFFINITY.items():
        (column,) = (each for each in rows[0] if re.fullmatch(rf"\w+_{name}_\S+ - eval/loss", each))
        curves[attention] = {PAPER_STEPS_PER_ROW * number: float(row[column]) for number, row in enumerate(rows, 1)}
    return curves


def _read_paper_file(paper: PaperCurves) -> str:
    """Returns the content of a file of the authors' repository, from the cache or else from the network."""
    folder = epath.Path(user_cache("paper"))
    file = folder / paper.file
    if (data := _read_cached(file, paper)) is None:
        with lock(folder, "reference", wait=True):
            if (data := _read_cached(file, paper)) is None:  # no other process has downloaded it in the meantime
                data = _download(paper, file)
                write_whole(file, data)
    return data.decode()


def _read_cached(file: epath.Path, paper: PaperCurves) -> bytes | None:
    """Returns the content of the file in the cache; None if it is missing or damaged."""
    data = file.read_bytes() if file.is_file() else b""
    return data if hashlib.sha256(data).hexdigest() == paper.sha256 else None


def _download(paper: PaperCurves, file: epath.Path) -> bytes:
    """Returns the content of the file in the authors' repository.

    file: where the caller will write it, for errors.

    Raises:
      UserError: the file cannot be downloaded, or differs from the one that this version of the package knows.
    """
    url = f"{URL}/{paper.file}"
    hint = f"save that file as {file}, or give curves of your own: --reference=FILE.csv"
    print(f"downloading {url}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            data: bytes = response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError("reference", f"no answer from {url} ({reason})", "access to it", hint) from None
    if (found := hashlib.sha256(data).hexdigest()) != paper.sha256:
        raise UserError("reference", f"SHA-256 {found} of {url}", paper.sha256, hint)
    return data


def _to_step(text: str) -> int:
    """Returns a step; raises `ValueError` if it is none."""
    if not 0 <= (step := int(text)) < 1 << 63:
        raise ValueError
    return step


def _to_loss(text: str) -> float:
    """Returns a finite number; raises `ValueError` if it is none."""
    if not math.isfinite(loss := float(text)):
        raise ValueError
    return loss
