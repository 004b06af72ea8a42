"""A tokenizer of 70,000 tokens that is not BERT's: every command from `prepare` to `import` uses it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax import inference
from symbert_jax.config import FinetuneConfig, GlueConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.tokenizer import JsonTokenizer
from symbert_jax.eval import task_data
from symbert_jax.eval.protocols import PROTOCOLS
from symbert_jax.eval.tasks import TASKS
from symbert_jax.interop import import_
from symbert_jax.interop.export import export
from symbert_jax.sharding import make_mesh
from symbert_jax.train import loop
from tests.conftest import configure
from tests.data.kinds import FOLDER
from tests.interop.ours import EXPORT_OPTIONS

SIZE = 70_000
SENTENCES = "Der \u00dcbersetzer schl\u00e4ft .", "wort66000 \u4e2d\u6587"


def write_tokenizer(folder: Path) -> JsonTokenizer:
    """Writes the tokenizer.json of XLM-RoBERTa's kind with more words; returns the tokenizer."""
    folder.mkdir()
    definition = json.loads((FOLDER / "xlm_roberta" / "tokenizer.json").read_text())
    vocab = definition["model"]["vocab"]
    vocab += [[f"\u2581{word}", -1.0] for word in SENTENCES[0].split()]
    vocab += [[f"\u2581wort{i}", -20.0] for i in range(len(vocab), SIZE)]
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    found = tokenizer.read(folder)
    assert isinstance(found, JsonTokenizer) and len(found.tokens) == SIZE
    return found


def test_large_vocabulary_goes_from_prepare_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))  # compiles faster
    multilingual, workdir, out = write_tokenizer(tmp_path / "xlm"), epath.Path(tmp_path / "run"), tmp_path / "out"
    texts = [f"{SENTENCES[0]} wort{66_000 + i} </s> <mask>" for i in range(90)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    data = {"dir": f"{tmp_path}/corpus", "sources": (f"jsonl:{tmp_path}/text.jsonl",), "vocab": f"{tmp_path}/xlm"}
    config = configure(
        model={"vocab_size": SIZE, "layers": 1},
        data=data | {"validation_fraction": 0.3, "batch_size": 8, "workers": 1},
        optim={"warmup_steps": 0},
        train={"steps": 1, "log_every": 1, "validate_every": 1, "validate_batches": 1, "checkpoint_every": 1},
    )
    prepare(config)
    rows = Corpus(config.data.dir).split("train")
    ids = np.stack([row["tokens"] for row in rows.__getitems__(range(len(rows)))])
    assert ids.dtype == np.uint32 and ids.max() >= 1 << 16
    inner = ids[:, 1:-1]
    assert (ids[:, 0] == multilingual.cls_id).all() and (ids[:, -1] == multilingual.sep_id).all()
    assert not np.isin(inner, [multilingual.cls_id, multilingual.mask_id, multilingual.pad_id]).any()

    loop.pretrain(config, workdir)
    assert tokenizer.read(workdir) == multilingual
    capsys.readouterr()
    inference.fill(workdir, None, ["Der [MASK] schl\u00e4ft .", "Der <mask> schl\u00e4ft ."], top=3)
    first, guesses, second, same_guesses = capsys.readouterr().out.splitlines()
    assert (first, second, guesses) == ("Der [MASK] schl\u00e4ft .", "Der <mask> schl\u00e4ft .", same_guesses)

    (tmp_path / "RTE").mkdir()
    header, example = "index\tsentence1\tsentence2\tlabel", "\t".join(["0", *SENTENCES, "entailment"])
    for split in ("train", "dev"):
        (tmp_path / "RTE" / f"{split}.tsv").write_text(f"{header}\n{example}\n")
    settings = FinetuneConfig(checkpoint=(str(workdir),), tasks=("rte",), glue=GlueConfig(f"tsv:{tmp_path}"))
    found = task_data.read_task_data(settings, PROTOCOLS["paper"], [TASKS["rte"]], {workdir: config.model})
    split = found[workdir][TASKS["rte"]].train
    tokens = [multilingual.tokens[i] for i in split.tokens[0]]
    assert tokens[:6] == ["<s>", *(f"\u2581{word}" for word in SENTENCES[0].split()), "</s>"][:6]
    assert tokens[6:8] == ["</s>", "\u2581wort66000"] and split.second_starts[0] == split.lengths[0]
    assert tokens[split.lengths[0] - 1] == "</s>" and set(tokens[split.lengths[0] :]) <= {"<pad>"}

    export(workdir, epath.Path(out), **EXPORT_OPTIONS)
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == multilingual.pad_id == 1
    assert json.loads((out / "tokenizer_config.json").read_text())["mask_token"] == "<mask>"
    exported = json.loads((out / "tokenizer.json").read_text())
    assert exported == json.loads(multilingual.definition) and not (out / "vocab.txt").exists()
    assert import_.read(epath.Path(out), vocab=None).tokenizer == multilingual
