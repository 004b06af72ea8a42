"""`Model` fills masks, encodes and embeds texts, and computes logits; `compare` compares several runs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.compare import compare, format_table, read_run, unique_names
from symbert_jax.config import Config, MeshConfig, ModelConfig, TrainConfig, to_json
from symbert_jax.errors import UserError
from symbert_jax.inference import MAX_BATCH, Model, fill, load, one_device
from symbert_jax.model import bert
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on"]
CONFIG = Config(model=ModelConfig(layers=1, dim=16, heads=2, mlp_dim=32, length=8, vocab_size=16, dtype="float32"))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> list[epath.Path]:
    """The workdirs of two runs that were not trained. Both models predict "cat" first and "sat" second."""
    workdirs = []
    for name, losses in (("one", {10: 5.0, 20: 3.0, 30: 2.0}), ("two", {10: 5.5, 20: 5.2, 30: 2.5})):
        workdir = epath.Path(tmp_path_factory.mktemp("runs") / name)
        workdir.mkdir()
        with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
            state = states.init(CONFIG)
            bias = np.full(16, -9.0, np.float32)
            bias[WORDS.index("cat")], bias[WORDS.index("sat")], bias[12] = 9.0, 8.0, 99.0  # 12 is not in the vocabulary
            state.params["head"]["bias"] = jax.device_put(bias, state.params["head"]["bias"].sharding)
            checkpoints = Checkpoints(workdir, TrainConfig())
            checkpoints.save(30, state.params, state.optimizer, CONFIG, validation_loss=None)
            checkpoints.close()
        (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (workdir / "config.json").write_text(to_json(CONFIG))
        lines = [{"step": step, "validation/loss": loss} for step, loss in losses.items()]
        lines += [{"step": 5, "speed/tokens_per_second": 7000.0}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        workdirs.append(workdir)
    return workdirs


@pytest.fixture(scope="module")
def model(workdirs: list[epath.Path]) -> Model:
    return load(workdirs[0])


def test_fill_mask_returns_best_tokens_for_each_mask(model: Model) -> None:
    text = "The [MASK] sat [MASK]."
    first, second = model.fill_mask(text, top=2)
    assert [guess.token for guess in first] == [guess.token for guess in second] == ["cat", "sat"]
    assert first[0].probability == pytest.approx(np.e / (np.e + 1), abs=0.05)
    assert len(model.fill_mask("- \0\n[MASK]", top=100)[0]) == len(WORDS)
    with jax.set_mesh(make_mesh(MeshConfig())):  # a mesh of the user
        same, short = model.fill_mask([text, "[MASK]"], top=2)
    assert len(short) == 1 and len(same) == 2
    assert same[1][0].probability == pytest.approx(second[0].probability, abs=1e-5)
    assert model.fill_mask([]) == []


def test_fill_prints_each_text_with_its_guesses(workdirs: list[epath.Path], capsys) -> None:
    fill(workdirs[0], step=30, texts=["the [MASK]", "[MASK] [MASK]"], top=1)
    lines = [line.split("%")[0][:7] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["the [MA", "  cat 7", "[MASK] ", "  cat 7", "  cat 7"]


def test_fill_mask_refuses_unusable_texts(model: Model) -> None:
    for text, message in {
        "the cat": r"text: found 'the cat', wanted at least one \[MASK\] in it$",
        "": r"text: found '', wanted at least one \[MASK\] in it$",
        "[MASK] " * 7: "text: found 9 tokens, wanted at most 8, the length of the model$",
        "the [Mask]": r"wanted at least one \[MASK\] in it; write \[MASK\] in capitals",
        "the \udcff [MASK]": r"text: found 'the \\udcff \[MASK\]', wanted text in UTF-8",
        ("[MASK]", "the"): r"texts\[1\]: found 'the', wanted at least one",
        iter(["[MASK]", None]): r"texts\[1\]: found None, wanted text",
    }.items():
        with pytest.raises(UserError, match=message):
            model.fill_mask(text)
    with pytest.raises(UserError, match="top: found 0, wanted at least 1"):
        model.fill_mask("[MASK]", top=0)


def test_model_refuses_vocabulary_larger_than_itself(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(8))]))
    with pytest.raises(UserError, match=f"checkpoint: found 17 tokens in {tmp_path}/vocab.txt, wanted at most 16"):
        Model(CONFIG, {}, epath.Path(tmp_path)).encode("the")


def test_encode_pads_and_truncates_texts(model: Model) -> None:
    ids, mask = model.encode(["the cat", "the"])
    assert ids.tolist() == [[2, 5, 6, 3], [2, 5, 3, 0]] and mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert model.encode("the").ids.tolist() == [[2, 5, 3]]
    assert model.encode("the cat sat on " * 2, truncate=True).ids.tolist() == [[2, 5, 6, 7, 8, 5, 6, 3]]
    assert model.encode([]).mask.shape == (0, 0)
    message = r"texts\[1\]: found 10 tokens, wanted at most 8, the length of the model; truncate=True cuts it"
    with pytest.raises(UserError, match=message):
        model.encode(["the", "the cat sat on " * 2])


def test_embed_pools_real_tokens_only(model: Model) -> None:
    texts = ["the cat sat on the", "the", *["cat sat"] * MAX_BATCH]
    mean, cls = model.embed(texts), model.embed(iter(texts), pooling="cls")
    assert mean.shape == cls.shape == (len(texts), 16) and mean.dtype == np.float32

    @jax.jit
    def encode(params: Params, ids: np.ndarray) -> jax.Array:
        module = bert.module(CONFIG.model, params)
        return module.encode(module.embeddings(ids))

    for i, text in enumerate(texts[:2]):
        with jax.set_mesh(one_device()):
            hidden = np.asarray(encode(model.params, model.encode(text).ids))[0]  # without padding
        np.testing.assert_allclose(mean[i], hidden.mean(0), atol=1e-5)
        np.testing.assert_allclose(cls[i], hidden[0], atol=1e-5)
    assert model.embed([]).shape == (0, 16)
    with pytest.raises(UserError, match="pooling: found 'max', wanted one of mean, cls"):
        model.embed("the", pooling="max")


def test_logits_ignore_padding(model: Model) -> None:
    ids, _ = model.encode(["the cat sat on", "the [MASK]"])
    both, alone = model.logits(ids, [[1, 2], [2, 0]]), model.logits([[2, 5, 4, 3]], [[2, 0]])
    assert both.shape == (2, 2, 16) and both.dtype == np.float32
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([[2.0, 3.0]], [[0]], r"ids: found float64 of shape \[1, 2\], wanted integers of two dimensions"),
        (np.array([2, 3]), [[0]], r"ids: found int64 of shape \[2\], wanted integers of two dimensions"),
        ([[2, 3], [2]], [[0]], "ids: found rows of different lengths, wanted rows of one length"),
        ([[2, 16]], [[0]], "ids: found numbers from 2 to 16, wanted numbers from 0 to 15"),
        ([[2, 3]], [[2]], "positions: found numbers from 2 to 2, wanted numbers from 0 to 1"),
        ([[2, 3]], [[0], [1]], "positions: found 2 rows, wanted 1, as many as ids has"),
        ([[2] * 9], [[0]], "ids: found 9 tokens, wanted at most 8, the length of the model"),
    ],
)
def test_logits_refuse_wrong_arrays(model: Model, ids, positions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.logits(ids, positions)


def test_compare_writes_table_and_plot(workdirs, tmp_path, capsys) -> None:
    compare(workdirs, epath.Path(tmp_path), ["the [MASK]"])
    text = (tmp_path / "table.md").read_text()
    assert text.splitlines()[0].split("|")[4:7] == [" step at 4.8 ", " step at 4.0 ", " step at 3.2 "]
    one, two = (line.replace(" ", "").split("|")[1:-1] for line in text.splitlines()[2:4])
    assert one[0] == "one" and one[2:] == ["2.000", "20", "20", "20", "7,000"]
    assert two[0] == "two" and two[2:] == ["2.500", "30", "30", "30", "7,000"]
    assert "- one: cat" in text
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert text.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["/a/run", "/b/run"], ["a/run", "b/run"]),
        (["/x/a/run", "/y/a/run", "/x/b/run", "/x/c"], ["x/a/run", "y/a/run", "b/run", "c"]),
        (["/run", "/a/run"], ["/run", "a/run"]),
        (["/run/1", "/run/2"], ["1", "2"]),
        (["gs://bucket/run", "/bucket/run"], ["gs://bucket/run", "/bucket/run"]),
        (["/a/\udcff\n"], ["\\udcff\\n"]),
    ],
)
def test_unique_names_returns_shortest_unique_endings(paths, wanted) -> None:
    assert unique_names([epath.Path(path) for path in paths]) == wanted


def write_run(workdir: Path, metrics: str, config: str | None = None) -> epath.Path:
    """Writes the config and the metrics of a run without checkpoints; returns its workdir."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(to_json(CONFIG) if config is None else config)
    (workdir / "metrics.jsonl").write_text(metrics)
    return epath.Path(workdir)


def test_compare_reads_damaged_metrics_and_odd_names(tmp_path, monkeypatch, capsys, bucket) -> None:
    """One run has one validation, the other damaged lines. Names have Markdown and TeX. Each path is given twice."""
    monkeypatch.setenv("HOME", str(tmp_path))
    odd = (
        '{"step": 10, "validation/loss": 4.0, "speed/tokens_per_second": NaN}',
        *('{"step": 20, "validation/loss": 3.0}', '{"step": 30, "validation/loss": "2.0"}', '{"validation/loss": 1.0}'),
        '{"step": true, "validation/loss": 1.0}',
        *('{"step": 30, "validation/loss": [1]}', '{"step": 40, "validation/loss": NaN}'),
        f'{{"step": 1{"0" * 400}, "validation/loss": 1{"0" * 400}}}',
    )
    one = write_run(tmp_path / "a/_$x|", '{"step": 10, "validation/loss": 5.0}\n')
    other = write_run(tmp_path / "b/_$x|", "".join(f"{line}\n" for line in odd))
    compare([one, epath.Path("~/b/_$x|"), epath.Path(f"{one}/"), other / "../_$x|"], epath.Path("gs://bucket/out"), [])
    table = bucket.cat("gs://bucket/out/table.md").decode()
    _, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in table.splitlines())
    assert [row[0] for row in rows] == [r"| a/_$x\|", r"| b/_$x\|"]
    assert [row[2] for row in rows] == ["5.000", "3.000"] and [row[-1] for row in rows] == ["- |", "- |"]
    assert bucket.cat("gs://bucket/out/loss.png").startswith(b"\x89PNG")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {other}/metrics.jsonl: line 1 and 6 others left out, ")


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ({10: 6.31, 20: 6.298}, {"6.307": 20, "6.304": 20, "6.301": 20}),
        ({10: 6.3, 20: 6.1, 30: 6.0}, {"6.22": 20, "6.15": 20, "6.08": 30}),
        ({10: 6.3}, {}),
    ],
)
def test_format_table_has_steps_at_distinct_losses(tmp_path, losses, wanted) -> None:
    lines = [json.dumps({"step": step, "validation/loss": loss}) + "\n" for step, loss in losses.items()]
    head, _, row = format_table([read_run(write_run(tmp_path / "run", "".join(lines)), "run")]).splitlines()
    columns = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    steps = {name.removeprefix("step at "): int(step) for name, step in columns.items() if name.startswith("step")}
    assert steps == wanted and len(columns) == head.count("|") - 1


@pytest.mark.parametrize("config", ["", "[]", '{"model": {"heads": 0}}', '{"model": {"dim": "16"}}'])
def test_compare_refuses_broken_config_in_one_line(tmp_path, config) -> None:
    workdir = write_run(tmp_path / "run", '{"step": 10, "validation/loss": 5.0}\n', config)
    with pytest.raises(UserError, match=f"{workdir}/config.json"):
        compare([workdir], epath.Path(tmp_path / "out"), [])
    assert not (tmp_path / "out").exists()


def test_compare_refuses_file_as_out(workdirs, tmp_path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/in"):
        with pytest.raises(UserError, match=f"out: found {out}, which is or lies in a file, wanted a folder"):
            compare(workdirs, epath.Path(out), [])


def test_compare_refuses_run_without_validation(tmp_path) -> None:
    with pytest.raises(UserError, match="found no validation loss"):
        compare([epath.Path(tmp_path)], epath.Path(tmp_path), [])
