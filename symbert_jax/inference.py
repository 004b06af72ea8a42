"""Pretrained models: fills [MASK] tokens, embeds texts, and computes logits, on one device."""

import dataclasses
import functools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from symbert_jax import checkpoint
from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import Config, MeshConfig, ModelConfig
from symbert_jax.data.tokenizer import TextTokenizer, Tokenizer, read_for_model
from symbert_jax.data.vocabulary import MASK
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import absolute, bucket_errors_as_user_errors

MAX_BATCH = 32  # the most texts in a forward pass
MIN_LENGTH = 16  # shorter texts are padded to this many tokens, but not beyond the length of the model
POOLINGS = ("mean", "cls")


class Guess(NamedTuple):
    """A token that the model predicts for a [MASK]."""

    token: str  # a token of the vocabulary as text; it begins with ## if it continues a word
    probability: float  # from 0 to 1; the probabilities of all tokens of the vocabulary sum to 1


class EncodedTexts(NamedTuple):
    """Token ids of B texts, padded with [PAD] to T tokens, the length of the longest."""

    ids: Int[np.ndarray, "B T"]
    mask: Bool[np.ndarray, "B T"]  # the attention mask: false where the token is [PAD]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A pretrained model; `load` returns it.

        params, config = model

    The model runs on one device, in the dtype of its config, with dropout off. No token attends to [PAD]. Texts are
    padded to a few shapes, so that many lengths share compiled programs; `logits` compiles each shape that it is given.
    """

    config: Config = dataclasses.field(repr=False)  # the config of the run that trained the model
    params: Params = dataclasses.field(repr=False)  # a nested dict of float32 numpy arrays
    workdir: epath.Path  # holds the vocabulary

    def __iter__(self) -> Iterator[Any]:
        return iter((self.params, self.config))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, from the package `tokenizers`. It recognises special tokens in a text.

        Raises:
          UserError: the workdir has no vocabulary, or one that does not fit the model.
        """
        return self._text_tokenizer.build(parse_special=True)

    @overload
    def fill_mask(self, text: str, top: int = 5) -> list[list[Guess]]: ...  # type: ignore[overload-overlap]

    @overload
    def fill_mask(self, text: Iterable[str], top: int = 5) -> list[list[list[Guess]]]: ...

    def fill_mask(self, text: str | Iterable[str], top: int = 5) -> Any:
        """Returns the `top` most probable tokens for each [MASK] of a text, the best first.

            model.fill_mask("The [MASK] sat on the [MASK].")[0][0]  # Guess(token="cat", probability=0.31)

        A mask is written [MASK] whatever the spelling of the tokenizer's own mask token, which is understood, too.

        text: one text, or several; for several, the result is a list with an entry for each text.

        Raises:
          UserError: a text has no [MASK], has more tokens than the model reads, or is not text in UTF-8; or `top` is
            below 1.
        """
        if top < 1:
            raise UserError("top", str(top), "at least 1")
        texts = named_texts(text)
        rows = self._token_ids(texts, truncate=False, hint="")
        mask_positions = [np.flatnonzero(np.array(row) == self._text_tokenizer.mask_id) for row in rows]
        for (name, one_text), positions in zip(texts.items(), mask_positions, strict=True):
            if not len(positions):
                hint = f"write {MASK} in capitals" if MASK.lower() in one_text.lower() else ""
                raise UserError(name, repr(one_text), f"at least one {MASK} in it", hint)
        guesses: list[list[list[Guess]]] = [[] for _ in rows]
        for indices, ids in self._batches(rows):
            chosen = [mask_positions[i] for i in indices]
            positions = _pad(chosen, value=0, count=len(ids), width=round_up(max(map(len, chosen))))
            # Not strict: the logits of padding rows come last and are left out.
            for i, logits in zip(indices, self.logits(ids, positions), strict=False):
                guesses[i] = [self._guesses(mask_logits, top) for mask_logits in logits[: len(mask_positions[i])]]
        return guesses[0] if isinstance(text, str) else guesses

    def encode(self, texts: str | Iterable[str], *, truncate: bool = False) -> EncodedTexts:
        """Returns the token ids of texts, [CLS] first and [SEP] last, and their attention mask.

            ids, mask = model.encode(["a text", "another text"])  # int32[B, T], bool[B, T]

        texts: one text counts as a list of one.
        truncate: whether to cut a text of more than `config.model.length` tokens, instead of raising an error.

        Raises:
          UserError: a text is too long, or is not text in UTF-8.
        """
        rows = self._token_ids(named_texts(texts), truncate)
        ids = _pad(rows, self._text_tokenizer.pad_id, count=len(rows), width=max(map(len, rows), default=0))
        return EncodedTexts(ids, ids != self._text_tokenizer.pad_id)

    def embed(
        self, texts: str | Iterable[str], pooling: str = "mean", *, truncate: bool = False
    ) -> Float[np.ndarray, "B D"]:
        """Returns a vector for each text, from the last layer.

        texts, truncate: as in `encode`.
        pooling: "mean", the mean over all tokens of a text, [CLS] and [SEP] included and padding not; or "cls", the
            vector of [CLS].

        Raises:
          UserError: as in `encode`, or there is no such pooling.
        """
        if pooling not in POOLINGS:
            raise UserError("pooling", repr(pooling), f"one of {', '.join(POOLINGS)}")
        rows = self._token_ids(named_texts(texts), truncate)
        vectors = np.empty((len(rows), self.config.model.dim), np.float32)
        for indices, ids in self._batches(rows):
            vectors[indices] = self._run(_pooled, ids, pooling)[: len(indices)]
        return vectors

    def logits(self, ids: AnyArray | Sequence, positions: AnyArray | Sequence) -> Float[np.ndarray, "B M V"]:
        """Returns logits over the vocabulary for each of the `positions`.

            ids, mask = model.encode("The capital of [MASK] is Paris.")
            model.logits(ids, [[4]]).argmax()

        ids: int[B, T], as `encode` returns them, with at most `config.model.length` tokens per row.
        positions: int[B, M], indices of tokens in their row, from 0.

        Returns float32[B, M, V]; V is `config.model.vocab_size`, which may exceed the vocabulary.

        Raises:
          UserError: an array has a wrong shape or type, or a value is out of range.
        """
        model = self.config.model
        ids = _to_int_rows("ids", ids, limit=model.vocab_size)
        positions = _to_int_rows("positions", positions, limit=ids.shape[1])
        if ids.shape[1] > model.length:
            raise UserError("ids", f"{ids.shape[1]} tokens", f"at most {model.length}, the length of the model")
        if len(ids) != len(positions):
            raise UserError("positions", f"{len(positions)} rows", f"{len(ids)}, as many as ids has")
        return self._run(_logits, ids, positions)

    def _token_ids(self, texts: dict[str, str], truncate: bool, hint: str = "truncate=True cuts it") -> list[list[int]]:
        """Returns the token ids of each text. A text that is cut keeps its [SEP].

        texts: the texts by their names in errors, see `named_texts`.
        hint: the hint in the error about a text that is too long.
        """
        limit = self.config.model.length
        mask = self._text_tokenizer.tokens[self._text_tokenizer.mask_id]
        encodings = self.tokenizer.encode_batch([text.replace(MASK, mask) for text in texts.values()])
        rows = [encoding.ids for encoding in encodings]
        for name, row in zip(texts, rows, strict=True):
            if len(row) > limit and not truncate:
                raise UserError(name, f"{len(row)} tokens", f"at most {limit}, the length of the model", hint)
        return [row if len(row) <= limit else row[: limit - 1] + row[-1:] for row in rows]

    def _batches(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Int[np.ndarray, "B T"]]]:
        """Yields batches of rows of similar length: indices of rows, and their ids padded in both dimensions."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(rows), MAX_BATCH):
            indices = order[start : start + MAX_BATCH]
            length = min(round_up(max(len(rows[indices[-1]]), MIN_LENGTH)), self.config.model.length)
            batch_rows, count = [rows[i] for i in indices], round_up(len(indices))
            yield indices, _pad(batch_rows, self._text_tokenizer.pad_id, count=count, width=length)

    def _guesses(self, logits: Float[np.ndarray, " V"], top: int) -> list[Guess]:
        tokenizer = self._text_tokenizer
        probabilities = softmax(logits[: len(tokenizer.tokens)])
        best = (-probabilities).argsort()[:top].tolist()
        return [Guess(tokenizer.readable(i), float(probabilities[i])) for i in best]

    def _run(self, function: Callable[..., Array], ids: Int[np.ndarray, "B T"], argument: Any) -> np.ndarray:
        """Calls `_logits` or `_pooled` on one device, with `argument` as its last argument."""
        mask = ids != self._text_tokenizer.pad_id
        with jax.set_mesh(one_device()):
            return np.asarray(function(self.config.model, self._device_params, ids, mask, argument))

    @functools.cached_property
    def _text_tokenizer(self) -> TextTokenizer:
        with bucket_errors_as_user_errors("checkpoint", self.workdir, "a bucket that can be read"):
            return read_for_model(self.workdir, self.config.model.vocab_size)

    @functools.cached_property
    def _device_params(self) -> Params:
        return to_device(self.params)


def load(workdir: epath.PathLike, step: int | None = None, weights: str = "") -> Model:
    """Loads a pretrained model.

        model = symbert_jax.load("runs/mini/pairwise")
        params, config = symbert_jax.load("runs/mini/pairwise", step=1000)

    workdir: the workdir of `pretrain` or `import`, on a disk or in a bucket.
    step: the step of the checkpoint; None: the latest.
    weights: ema, the moving average of the parameters; raw, the parameters of the last step; empty: the average if the
      checkpoint has one.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    params, config = checkpoint.load(workdir, step, weights)
    return Model(config, params, absolute(workdir, "checkpoint"))


def fill(workdir: epath.Path, step: int | None, texts: Iterable[str], top: int, weights: str = "") -> None:
    """Prints each text, and below it a line with the `top` most probable tokens for each [MASK].

    Raises:
      UserError: there is no such checkpoint, or as in `Model.fill_mask`.
    """
    model = load(workdir, step, weights)
    for text in texts:
        lines = ["  ".join(f"{token} {p:.1%}" for token, p in guesses) for guesses in model.fill_mask(text, top)]
        print("\n  ".join([text, *lines]))


def one_device() -> Mesh:
    """Returns a mesh of only the first device of this process."""
    return make_mesh(MeshConfig(), jax.local_devices()[:1])


def to_device(params: Params) -> Params:
    """Copies parameters to the device of `one_device()`."""
    return jax.device_put(params, NamedSharding(one_device(), PartitionSpec()))


def named_texts(texts: str | Iterable[str]) -> dict[str, str]:
    """Returns the texts by their names in errors: "text" for a single text, else "texts[0]", "texts[1]", …

    Raises:
      UserError: one of them is not text in UTF-8.
    """
    named = {"text": texts} if isinstance(texts, str) else {f"texts[{i}]": text for i, text in enumerate(texts)}
    for name, text in named.items():
        check_text(name, text)
    return named


def check_text(name: str, text: Any) -> None:
    """Raises `UserError` unless the value is text that can be encoded as UTF-8."""
    if not isinstance(text, str):
        raise UserError(name, reprlib.repr(text), "text")
    try:
        text.encode()
    except UnicodeEncodeError:  # Python decodes bytes of sys.argv that are not UTF-8 to lone surrogates
        raise UserError(name, repr(text), "text in UTF-8") from None


def round_up(count: int) -> int:
    """Returns the smallest power of two that is at least `count`, so that few shapes are compiled."""
    return 1 << max(count - 1, 0).bit_length()


def softmax(logits: Float[np.ndarray, "*rows C"]) -> Float[np.ndarray, "*rows C"]:
    """Returns the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _pad(rows: Sequence[Sequence[int] | np.ndarray], value: int, count: int, width: int) -> Int[np.ndarray, "B T"]:
    """Pads each row with `value` to `width` numbers, and adds rows of `value` up to `count` rows."""
    padded = np.full((count, width), value, np.int32)
    for padded_row, row in zip(padded, rows, strict=False):
        padded_row[: len(row)] = row
    return padded


def _to_int_rows(name: str, values: AnyArray | Sequence, limit: int) -> Int[np.ndarray, "B M"]:
    """Returns rows of integers as an array; raises `UserError` unless all integers are from 0 to `limit` - 1."""
    try:
        array = np.asarray(values)
    except ValueError:  # numpy refuses rows of different lengths
        raise UserError(name, "rows of different lengths", "rows of one length") from None
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise UserError(name, f"{array.dtype} of shape {list(array.shape)}", "integers of two dimensions")
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise UserError(name, f"numbers from {array.min()} to {array.max()}", f"numbers from 0 to {limit - 1}")
    return array.astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    model: ModelConfig,
    params: Params,
    ids: Int[AnyArray, "B T"],
    mask: Bool[AnyArray, "B T"],
    positions: Int[AnyArray, "B M"],
) -> Float[Array, "B M V"]:
    segments = mask.astype(jnp.int32)  # 1 for text; 0 for padding, which no token attends to
    return bert.logits(model, params, ids, positions, segments=segments)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _pooled(
    model: ModelConfig, params: Params, ids: Int[AnyArray, "B T"], mask: Bool[AnyArray, "B T"], pooling: str
) -> Float[Array, "B D"]:
    module = bert.module(model, params)
    x = module.encode(module.embeddings(ids), segments=mask.astype(jnp.int32)).astype(jnp.float32)
    if pooling == "cls":
        return x[:, 0]
    # A padding row has no tokens; the maximum avoids 0 / 0.
    return jnp.sum(x * mask[..., None], axis=1) / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
