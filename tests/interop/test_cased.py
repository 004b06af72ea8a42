"""A cased model: every command from `import` to `export` uses the tokenizer of its source."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.config import FinetuneConfig, GlueConfig, MeshConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.tokenizer import Normalization, WordPiece
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.eval import saved, task_data
from symbert_jax.eval.protocols import PROTOCOLS
from symbert_jax.eval.tasks import TASKS
from symbert_jax.inference import load
from symbert_jax.interop import folder, tensors
from symbert_jax.interop.architecture import to_config
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from symbert_jax.model import classifier
from symbert_jax.sharding import make_mesh
from symbert_jax.train import loop, start
from tests.conftest import configure, init_params_numpy
from tests.interop.ours import EXPORT_OPTIONS

TOKENS = (*SPECIAL, "The", "the", "Dog", "dog", "e", "\u00e9", *(f"w{i}" for i in range(89)))
WORDPIECE = WordPiece(TOKENS, Normalization(lowercase=False, strip_accents=False))
SENTENCE = "The dog e \u00e9"


def test_cased_model_stays_cased_from_import_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))  # compiles faster
    source, workdir = epath.Path(tmp_path / "source"), epath.Path(tmp_path / "workdir")
    source.mkdir()
    model = configure().model  # other tests compile programs of these sizes, too
    source_config = to_config(model, "bert", classes=None, pad_id=0, dtype="float32")
    folder.write(source, source_config, tensors.to_torch(init_params_numpy(model)), WORDPIECE, card="")
    import_(source, workdir, vocab=None, attention=None, text="")

    lines = [json.dumps({"text": f"{SENTENCE} [SEP] w{i} w1 w2 " * 20}) for i in range(80)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    data = {"dir": f"{tmp_path}/corpus", "sources": (f"jsonl:{tmp_path}/text.jsonl",), "validation_fraction": 0.3}
    train = {"steps": 2, "log_every": 1, "validate_every": 2, "validate_batches": 1, "checkpoint_every": 2}
    config = configure(data=data | {"vocab": f"{workdir}/vocab.txt"}, optim={"warmup_steps": 1}, train=train)
    prepare(config)
    rows = Corpus(config.data.dir).split("train")
    ids = np.stack([row["tokens"] for row in rows.__getitems__(range(len(rows)))])
    tokens = set(np.array(TOKENS)[ids[:, 1:-1]].ravel())
    # the text "[SEP]" becomes [UNK]: only the ends of a document and of the row are [SEP]
    assert {*SENTENCE.split()} < tokens and "[UNK]" in tokens and (ids == TOKENS.index("[SEP]")).sum(1).max() <= 2

    loop.pretrain(config, workdir)
    # a corpus whose tokenizer has the same vocabulary but lower-cases texts is refused
    (tmp_path / "same_vocabulary").mkdir()
    (tmp_path / "same_vocabulary" / "vocab.txt").write_bytes((workdir / "vocab.txt").read_bytes())
    (tmp_path / "same_vocabulary" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    lowered = configure(
        data=data | {"dir": f"{tmp_path}/lowered", "vocab": f"{tmp_path}/same_vocabulary"},
        optim={"warmup_steps": 1},
        train=train,
    )
    prepare(lowered)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        problems = [str(problem) for problem in start.problems(lowered, Corpora(), workdir)]
    assert "a different vocabulary" in problems[0]

    loaded = load(workdir)
    assert loaded.tokenizer.encode(f"{SENTENCE} [MASK]").tokens[1:-1] == [*SENTENCE.split(), "[MASK]"]
    assert len(loaded.fill_mask("The [MASK]", top=1)) == 1

    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "SST-2" / f"{split}.tsv").write_text(f"sentence\tlabel\n{SENTENCE}\t1\n")
    settings = FinetuneConfig(checkpoint=(str(workdir),), tasks=("sst2",), glue=GlueConfig(f"tsv:{tmp_path}"))
    data_by_workdir = task_data.read_task_data(settings, PROTOCOLS["paper"], [TASKS["sst2"]], {workdir: model})
    sentence_ids = data_by_workdir[workdir][TASKS["sst2"]].train.tokens[0]
    assert [TOKENS[i] for i in sentence_ids][1:5] == SENTENCE.split()
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        head = jax.tree.map(np.asarray, classifier.init_head(model, num_outputs=2, key=jax.random.key(0)))
    finetuned = epath.Path(tmp_path / "finetuned")
    description = saved.SavedModel(score=0.0, task="sst2", model=model, trial="none")
    saved.write(finetuned, description, init_params_numpy(model) | {"head": head}, workdir / "vocab.txt")

    for checkpoint in (workdir, finetuned):
        out = epath.Path(f"{checkpoint}.out")
        export(checkpoint, out, **EXPORT_OPTIONS)
        assert tokenizer.read(out) == tokenizer.read(checkpoint) == WORDPIECE
        assert json.loads((out / "tokenizer_config.json").read_text())["do_lower_case"] is False
