"""`import`: a folder of Hugging Face's BERT, or of the paper's code, as a workdir that every other command takes."""

import dataclasses
import itertools

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt16

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import ATTENTIONS, Config, Data, Mesh, Model, Train, check, to_json
from symbert_jax.data import sources, tokenizer, vocabulary
from symbert_jax.data.masking import Masking
from symbert_jax.data.rows import VOCAB
from symbert_jax.errors import UserError
from symbert_jax.interop import folder, tensors, warm_start
from symbert_jax.interop.architecture import to_model
from symbert_jax.model import bert
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states
from symbert_jax.train.step import loss

ROWS, LENGTH = 64, 128  # of text, for a warm start: half of the rows to fit, half to judge


def import_(source: epath.Path, workdir: epath.Path, vocab: str | None, attention: str | None, text: str) -> None:
    """Leaves checkpoint 0 of `workdir` with the parameters of `source` and a fresh optimizer.

    vocab: for a source without one, as `config.data.vocab`. attention: None keeps the source's; another one is
    fitted to a standard source (`warm_start.py`) on `text`, a source of documents as in `config.data.sources`.

    Raises:
      UserError: `source` is no BERT that our model covers, is damaged or incomplete, or `workdir` is not empty.
    """
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError("workdir", f"{workdir}, which is not empty", "a new folder", "nothing was changed in it")
    found = folder.read(source)
    where = str(source)
    model = to_model(found.config, where)
    config = Config(model=model, data=Data(dir=""))
    check(config)
    if attention not in (None, model.attention) and (attention not in ATTENTIONS or model.attention != "standard"):
        wanted = f"one of {', '.join(ATTENTIONS)}, from a standard source"
        raise UserError("attention", f"{attention} from a {model.attention} source", wanted)
    weights = tensors.canonical(found.tensors, where)
    new = workdir.with_name(f"{workdir.name}.incomplete")
    if new.exists():
        new.rmtree()
    new.mkdir(parents=True)
    _vocabulary(source, vocab, new / VOCAB, model)
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        params = _params(model, weights, where)
        if attention not in (None, model.attention):
            assert attention
            params = _warm_start(model, params, attention, text, new / VOCAB)
            config = dataclasses.replace(config, model=dataclasses.replace(model, attention=attention))
        state = states.begin(config, params)
        checkpoints = Checkpoints(new, Train())
        checkpoints.save(0, state.params, state.optimizer, config, None)
        checkpoints.close()
    (new / "config.json").write_text(to_json(config))
    if workdir.exists():
        workdir.rmdir()
    new.rename(workdir)
    print(f"{workdir}: {config.model.attention} BERT, {bert.size(config.model):,} parameters, as checkpoint 0")


def _vocabulary(source: epath.Path, vocab: str | None, path: epath.Path, model: Model) -> None:
    """Writes the vocabulary of the source, or the one asked for, to `path`."""
    if vocab:
        path.write_bytes(tokenizer.find(vocab).read_bytes())
    elif text := folder.read_vocabulary(source):
        path.write_text(text, encoding="utf-8")
    else:
        raise UserError("source", f"no vocab.txt or tokenizer.json in {source}", "one", "--vocab=FILE names another")
    if (count := len(vocabulary.read(path))) > model.vocab_size:
        raise UserError("source", f"a vocabulary of {count} words", f"{model.vocab_size}, its vocab_size, at most")


def _params(model: Model, weights: tensors.Tensors, where: str) -> Params:
    """The parameters of the source; a plain encoder gets the head of a new model."""
    shapes = bert.abstract(model, Mesh())
    if tensors.has_head(weights):
        return tensors.from_torch(weights, shapes, where)
    print(f"{where} is a plain encoder: its head for masked words is a fresh one")
    encoder = {part: shape for part, shape in shapes.items() if part != "head"}
    head = bert.init(model, Mesh(), jax.random.key(0))["head"]
    return tensors.from_torch(weights, encoder, where) | {"head": jax.tree.map(np.asarray, head)}


def _warm_start(model: Model, params: Params, attention: str, text: str, vocab: epath.Path) -> Params:
    """The parameters with another attention; prints what that changes on text that it was not fitted to."""
    rows = _rows(text, vocab, min(LENGTH, model.length))
    converted, moved = warm_start.convert(model, params, attention, rows.astype(np.int32))
    for layer, heads in enumerate(moved):
        print(f"layer {layer:2}: share of attention that moved, by head: " + " ".join(f"{head:.3f}" for head in heads))
    held = rows[ROWS // 2 :]
    masking = Masking(vocabulary.read(vocab), held.shape[1], rate=0.15, seed=0)
    batch = masking(held, np.arange(len(held)), np.zeros(len(held), np.int64))
    losses = []
    for name, weights in (("standard", params), (attention, converted)):
        sums = jax.jit(loss, static_argnums=0)(dataclasses.replace(model, attention=name), weights, batch, None)[1]
        losses.append(f"{sums['loss'] / sums['count']:.4f} {name}")
    print(f"masked-language loss on {len(held)} rows of {text}: {', '.join(losses)}")
    return converted


def _rows(text: str, vocab: epath.Path, length: int) -> UInt16[np.ndarray, "B T"]:
    """The first rows of a source, framed as a corpus frames them."""
    words, inner = tokenizer.load(vocab, parse_special=False), length - 2
    special = tokenizer.special_ids(words)
    cls, sep = special[vocabulary.CLS], special[vocabulary.SEP]
    documents = (words.encode(document, add_special_tokens=False).ids for document in sources.documents(text))
    stream = itertools.chain.from_iterable((*ids, sep) for ids in documents)
    tokens = np.fromiter(itertools.islice(stream, ROWS * inner), np.uint16)
    if len(tokens) < ROWS * inner:
        raise UserError("text", f"{len(tokens)} tokens in {text}", f"at least {ROWS * inner}, {ROWS} rows of {length}")
    return np.pad(tokens.reshape(ROWS, inner), ((0, 0), (1, 1)), constant_values=((0, 0), (cls, sep)))
