"""fill and compare on the runs that they are for."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax import inference
from symbert_jax.checkpoint import Checkpoints
from symbert_jax.compare import compare, format_table, read_run, unique_names
from symbert_jax.config import Config, MeshConfig, ModelConfig, TrainConfig, to_json
from symbert_jax.errors import UserError
from symbert_jax.inference import Filler
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on"]
CONFIG = Config(model=ModelConfig(layers=1, dim=16, heads=2, mlp_dim=32, length=8, vocab_size=16, dtype="float32"))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> list[epath.Path]:
    """Two runs by their files; the model of both always says "cat", then "sat"."""
    workdirs = []
    for name, losses in (("one", {10: 5.0, 20: 3.0, 30: 2.0}), ("two", {10: 5.5, 20: 5.2, 30: 2.5})):
        workdir = epath.Path(tmp_path_factory.mktemp("runs") / name)
        workdir.mkdir()
        with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
            state = states.init(CONFIG)
            bias = np.full(16, -9.0, np.float32)
            bias[WORDS.index("cat")], bias[WORDS.index("sat")], bias[12] = 9.0, 8.0, 99.0  # 12 is no word
            state.params["head"]["bias"] = jax.device_put(bias, state.params["head"]["bias"].sharding)
            checkpoints = Checkpoints(workdir, TrainConfig())
            checkpoints.save(30, state.params, state.optimizer, CONFIG, None)
            checkpoints.close()
        (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (workdir / "config.json").write_text(to_json(CONFIG))
        lines = [{"step": step, "validation/loss": loss} for step, loss in losses.items()]
        lines += [{"step": 5, "speed/tokens_per_second": 7000.0}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        workdirs.append(workdir)
    return workdirs


def test_every_mask_gets_the_best_words_with_their_probabilities(workdirs) -> None:
    filler = Filler(workdirs[0])
    first, second = filler.guesses("The [MASK] sat [MASK].", top=2)
    assert [guess.word for guess in first] == [guess.word for guess in second] == ["cat", "sat"]
    assert first[0].probability == pytest.approx(np.e / (np.e + 1), abs=0.05)
    assert "cat 7" in filler.describe("[MASK]", 1)


def test_a_text_that_cannot_be_filled_is_one_clear_error(workdirs) -> None:
    filler = Filler(workdirs[0])
    with pytest.raises(UserError, match=r"found 'the cat', wanted at least one \[MASK\]"):
        filler.guesses("the cat", 5)
    with pytest.raises(UserError, match="found 9 tokens, wanted at most 8"):
        filler.guesses("[MASK] " * 7, 5)
    with pytest.raises(UserError, match=r"text: found '', wanted at least one \[MASK\] in it$"):
        filler.guesses("", 5)
    with pytest.raises(UserError, match=r"wanted at least one \[MASK\] in it; write \[MASK\] in capitals"):
        filler.guesses("the [Mask]", 5)
    with pytest.raises(UserError, match=r"text: found 'the \\udcff \[MASK\]', wanted text in UTF-8"):
        filler.guesses("the \udcff [MASK]", 5)
    with pytest.raises(UserError, match="top: found 0, wanted at least 1"):
        filler.guesses("[MASK]", 0)
    assert len(filler.guesses("- \0\n[MASK]", 100)[0]) == len(WORDS)


def test_filler_refuses_vocabulary_larger_than_model(workdirs, monkeypatch, tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(8))]))
    monkeypatch.setattr(inference, "load", lambda *_: ({}, CONFIG))
    with pytest.raises(UserError, match=f"checkpoint: found 17 tokens in {tmp_path}/vocab.txt, wanted at most 16"):
        Filler(epath.Path(tmp_path))


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
def test_names_are_shortest_unique_endings(paths, wanted) -> None:
    assert unique_names([epath.Path(path) for path in paths]) == wanted


def write_run(workdir: Path, metrics: str, config: str | None = None) -> epath.Path:
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(to_json(CONFIG) if config is None else config)
    (workdir / "metrics.jsonl").write_text(metrics)
    return epath.Path(workdir)


def test_compare_reads_damaged_metrics_and_odd_names(tmp_path, monkeypatch, capsys, bucket) -> None:
    """One validation, lines without numbers, names with Markdown and TeX in them, and the same workdir three times."""
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
def test_table_has_steps_at_distinct_losses(tmp_path, losses, wanted) -> None:
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
