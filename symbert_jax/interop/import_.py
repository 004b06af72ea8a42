"""`import`: makes a workdir from the folder of a BERT or ModernBERT, of Hugging Face or of the paper's code."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt32

from symbert_jax.checkpoint import check_path
from symbert_jax.config import ATTENTIONS, Config, DataConfig, MeshConfig, ModelConfig
from symbert_jax.data import sources
from symbert_jax.data.masking import Masking
from symbert_jax.data.tokenizer import TOKENIZER, TextTokenizer, find
from symbert_jax.data.tokenizer import read as read_tokenizer
from symbert_jax.data.tokenizer import write as write_tokenizer
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from symbert_jax.interop import folder, tensors, warm_start
from symbert_jax.interop.architecture import TITLES, model_type_of, to_model
from symbert_jax.model import bert
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import check_new, new_folder
from symbert_jax.train.start import write_first_checkpoint
from symbert_jax.train.step import mlm_objective

# The number of rows of text for a warm start, and their length, or the model's length if that is smaller. The attention
# is fitted on the first half of the rows and evaluated on the second.
ROWS, LENGTH = 64, 128


class Source(NamedTuple):
    """The contents of a source folder, checked."""

    model: ModelConfig
    params: Params  # without `head` if the source is a plain encoder
    tokenizer: TextTokenizer
    left_out: list[str]  # modules that are not imported: other heads, the pooler


def import_(source: epath.Path, workdir: epath.Path, vocab: str | None, attention: str | None, text: str) -> None:
    """Writes a workdir with the parameters of `source` and a new optimizer state as checkpoint 0.

    vocab: the tokenizer, in the syntax of `config.data.vocab`; None: that of the source.
    attention: the attention of the new model; None: that of the source. Only a standard source can get another
      attention, by `warm_start`.
    text: the documents on which `warm_start` fits the attention, in the syntax of an item of `config.data.sources`.

    Raises:
      UserError: `source` is not a BERT or ModernBERT that our model supports, or is damaged or incomplete; an argument
        is wrong; or `workdir` is not empty.
    """
    check_new(workdir, "workdir")
    check_path(workdir, "workdir")
    if attention not in (None, *ATTENTIONS):
        raise UserError("attention", repr(attention), f"one of {', '.join(ATTENTIONS)}")
    contents = read(source, vocab)
    model, params = contents.model, contents.params
    title = TITLES[model_type_of(model)]
    if attention not in (None, model.attention):
        if model.attention != "standard":
            wanted = f"one of {', '.join(ATTENTIONS)}, from a standard source"
            raise UserError("attention", f"{attention} from a {model.attention} source", wanted)
        if model.positions == "rope":
            raise UserError(
                "attention", f"{attention} from a source with rotary positions", "standard: no other is fitted"
            )
        with _errors_about_field("text"):
            sources.documents(text)  # raises an error about a wrong `text` here, before anything is written
    config = Config(model=dataclasses.replace(model, attention=attention or model.attention), data=DataConfig(dir=""))
    if contents.left_out:
        print(f"{source}: left out {', '.join(contents.left_out)}, which do not predict masked tokens")
    with new_folder(workdir, "workdir") as new, jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        write_tokenizer(contents.tokenizer, new)
        if "head" not in params:
            print(f"{source} is a plain encoder: its masked-language head is newly initialized")
            head = bert.init(model, MeshConfig(), jax.random.key(0))["head"]
            params |= {"head": jax.tree.map(np.asarray, head)}
        if config.model != model:
            params = _warm_start(model, params, config.model.attention, text, contents.tokenizer)
        write_first_checkpoint(new, config, params)
    print(f"{workdir}: {config.model.attention} {title}, {bert.size(config.model):,} parameters, as checkpoint 0")


def read(source: epath.Path, vocab: str | None) -> Source:
    """Reads the model, the parameters and the tokenizer of a folder.

    vocab: the tokenizer, in the syntax of `config.data.vocab`; None: that of the folder.

    Raises:
      UserError: `source` is not a BERT or ModernBERT that our model supports, or is damaged or incomplete; or `vocab`
        is wrong.
    """
    where = str(source)
    contents = folder.read(source)
    model = to_model(contents.config, str(source / folder.CONFIG))
    tokenizer = _read_tokenizer(source, vocab)
    if (count := len(tokenizer.tokens)) > model.vocab_size:
        raise UserError("source", f"a vocabulary of {count} tokens", f"at most {model.vocab_size}, the vocab_size")
    weights, left_out = tensors.canonical(contents.tensors, where)
    tensors.check_sizes(weights, model, where)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        shapes = bert.abstract(model, MeshConfig())
    if not tensors.has_head(weights):
        del shapes["head"]
    return Source(model, tensors.from_torch(weights, shapes, where), tokenizer, left_out)


def _read_tokenizer(source: epath.Path, vocab: str | None) -> TextTokenizer:
    """Reads the tokenizer that `vocab` names, or else that of the source."""
    if vocab is not None:
        return read_tokenizer(find(vocab, "vocab"), "vocab")
    if not any((source / name).exists() for name in (VOCAB, TOKENIZER)):
        found, hint = f"no {VOCAB} or {TOKENIZER} in {source}", "--vocab=FILE names a tokenizer elsewhere"
        raise UserError("source", found, "one of them", hint)
    return read_tokenizer(source, "source")


def _warm_start(model: ModelConfig, params: Params, attention: str, text: str, tokenizer: TextTokenizer) -> Params:
    """Returns the parameters with another attention.

    Prints the distance of each head's attention from that of the standard model, as `warm_start.convert` defines it,
    and the losses of both models on the second half of the rows.
    """
    rows = _read_rows(text, tokenizer, min(LENGTH, model.length))
    target = dataclasses.replace(model, attention=attention)
    converted, distances = warm_start.convert(model, params, target, rows.astype(np.int32))
    for layer, distances_by_head in enumerate(distances):
        values = " ".join(f"{distance:.3f}" for distance in distances_by_head)
        print(f"layer {layer:2}: distance from standard attention, by head: {values}")
    held_out = rows[ROWS // 2 :]
    masking = Masking(tokenizer, held_out.shape[1], rate=0.15, seed=0)
    batch = masking(held_out, row_indices=np.arange(len(held_out)), epochs=np.zeros(len(held_out), np.int64))
    losses = []
    for variant, weights in (("standard", params), (attention, converted)):
        objective = jax.jit(mlm_objective, static_argnums=0)
        sums = objective(dataclasses.replace(model, attention=variant), weights, batch, key=None)  # without dropout
        total, count = sums["loss"]
        losses.append(f"{total / count:.4f} {variant}")
    print(f"masked-language loss on {len(held_out)} rows of {text}: {', '.join(losses)}")
    return converted


@contextlib.contextmanager
def _errors_about_field(field: str) -> Iterator[None]:
    """Makes every `UserError` name `field`, the flag that the user can correct."""
    try:
        yield
    except UserError as error:
        raise UserError(field, error.found, error.wanted, error.hint) from None


def _read_rows(text: str, tokenizer: TextTokenizer, length: int) -> UInt32[np.ndarray, "B T"]:
    """Returns the first `ROWS` rows of a source of documents, each between [CLS] and [SEP], as in a corpus.

    length: tokens per row, including [CLS] and [SEP].

    Raises:
      UserError: the source is damaged, or too short for these rows.
    """
    encoder, inner_length = tokenizer.build(parse_special=False), length - 2
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    with _errors_about_field("text"):
        encoded = (encoder.encode(document, add_special_tokens=False).ids for document in sources.documents(text))
        stream = itertools.chain.from_iterable((*ids, sep) for ids in encoded)
        tokens = np.fromiter(itertools.islice(stream, ROWS * inner_length), np.uint32)
    if len(tokens) < ROWS * inner_length:
        wanted = f"at least {ROWS * inner_length}, {ROWS} rows of {inner_length} without [CLS] and [SEP]"
        raise UserError("text", f"{len(tokens)} tokens in {text}", wanted)
    return np.pad(tokens.reshape(ROWS, inner_length), ((0, 0), (1, 1)), constant_values=((0, 0), (cls, sep)))
