"""Configs are read and checked: errors name the wrong field, and the code reads each field."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Annotated

import pytest
from ml_collections import ConfigDict

from symbert_jax import config as configs
from symbert_jax.config import Config
from symbert_jax.config.limits import Range
from symbert_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def make_config(**changes: object) -> Config:
    """Returns the default config with `section__field=value` changed, made from mappings and checked."""
    tree = configs.default().to_dict()
    for path, value in changes.items():
        *sections, name = path.split("__")
        node = tree
        for section in sections:
            node = node[section]
        node[name] = value
    config = configs.from_dict(tree)
    configs.check(config)
    return config


def test_default_is_the_recipe_of_the_paper() -> None:
    config = configs.freeze(configs.default())
    assert config == Config()
    optim = config.optim
    assert (config.model.length, config.data.batch_size, config.train.steps) == (512, 256, 200_000)
    assert (optim.learning_rate, optim.b1, optim.b2, optim.eps, optim.weight_decay) == (1e-4, 0.9, 0.999, 1e-12, 0.01)
    assert (optim.warmup_steps, optim.clip, config.model.dropout, config.model.attention_dropout) == (
        10_000,
        1,
        0.1,
        0.1,
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_config_file_is_valid_and_opens_with_command_time_and_result(path: Path) -> None:
    namespace: dict = {}
    source = path.read_text()
    exec(compile(source, path, "exec"), namespace)
    config = namespace["get_config"]()
    if "checkpoint" in config:
        config.checkpoint = ("a workdir",)
        assert configs.freeze_finetune(config)
    elif "arms" in config:
        assert configs.freeze_study(config)
    else:
        assert configs.freeze(config)
    command, _, about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
    assert command.startswith(("python -m symbert_jax ", "make "))
    assert re.match(r"Time: .+[.]\nResult: .+", about)


def test_from_json_reads_current_files_and_old_ones_without_new_fields() -> None:
    config = make_config(model__attention="pairwise", data__sources=("a", "b"), seed=3)
    assert configs.from_json(configs.to_json(config)) == config
    assert configs.from_dict({"model": {"layers": 4}}).model == dataclasses.replace(
        config.model, layers=4, attention="standard"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("jsonl:wiki/*.jsonl.gz,bookcorpus:books", ["jsonl:wiki/*.jsonl.gz", "bookcorpus:books"]),
        ('"jsonl:a, b.jsonl",text:/c d/[e].txt', ["jsonl:a, b.jsonl", "text:/c d/[e].txt"]),
        ("('a,b', 'c')", ["a,b", "c"]),
        ("(old)/a,[b]", ["(old)/a", "[b]"]),
        ("[1, 2]", ["1", "2"]),
        (" a , ,b,", ["a", "b"]),
        ("", []),
    ],
)
def test_split_list_divides_at_commas_outside_quotes(text: str, parts: list[str]) -> None:
    assert configs.split_list(text) == parts


@pytest.mark.parametrize("text", ['"a,b', "a\nb", '"a"b'])
def test_split_list_refuses_text_that_is_not_a_csv_line(text: str) -> None:
    with pytest.raises(UserError, match="double quotes around one"):
        configs.split_list(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__atention": "x"}, "config.model.atention: found no such field.*did you mean 'attention'"),
        ({"model__attention": "pairwize"}, "model.attention: found 'pairwize'.*did you mean 'pairwise'"),
        ({"model__layers": 2.5}, "config.model.layers: found 2.5, wanted a value of type int"),
        ({"model__heads": 7}, "model.dim: found 768, wanted a multiple of model.heads=7; the next is 770"),
        ({"mesh__model": 4}, "model.vocab_size: found 30522, wanted a multiple of mesh.model=4; the next is 30524"),
        ({"model__vocab_size": 5_000_000}, "model.vocab_size: found 5000000, wanted at most 4194304"),
        (
            {"data__lowercase": False},
            "data.lowercase: found False with data.vocab=hf:.*, wanted data.vocab=train or",
        ),
        ({"model__window": 7}, "model.window: found 7, wanted an even number.*8 is 4 on each side"),
        ({"model__positions": "rope", "model__key_dim": 5}, "model.key_dim: found 5, wanted an even number with"),
        ({"model__unroll": 5}, "model.layers: found 12, wanted a multiple of model.unroll=5"),
        ({"optim__eps": 0.0}, "optim.eps: found 0.0, wanted a finite number above 0"),
        ({"optim__accumulate": 3}, "data.batch_size: found 256, wanted a multiple of optim.accumulate=3"),
        ({"optim__warmup_steps": 200_000}, "optim.warmup_steps: found 200000, wanted fewer than train.steps=200000"),
        (
            {"optim__schedule": "wsd", "optim__decay_steps": 190_001},
            "optim.decay_steps: found 190001, wanted at most 190000, the steps of the run after warmup",
        ),
        ({"optim__decay_steps": 5}, "optim.decay_steps: found 5 with optim.schedule=linear, wanted optim.schedule=wsd"),
        ({"optim__decay_shape": "sqrt"}, "optim.decay_shape: found 'sqrt' with optim.schedule=linear"),
        ({"branch_from": "runs/x"}, "branch_from: found 'runs/x', wanted WORKDIR@STEP"),
        ({"branch_from": "x@5", "init_from": "y"}, "branch_from: found x@5 with init_from=y, wanted one of them"),
        ({"data__mask_rate": 0.0}, "data.mask_rate: found 0.0, wanted enough to mask a token of model.length=512"),
        ({"data__validation_mask_rate": 0.0}, "data.validation_mask_rate: found 0.0, wanted enough to mask a token"),
        ({"data__final_mask_rate": 0.0005}, "data.final_mask_rate: found 0.0005, wanted enough to mask a token of"),
        ({"data__mask_split": (0.8, 0.1)}, "data.mask_split: found 0.8,0.1, wanted three fractions that add up to 1"),
        ({"data__mask_split": (1.2, -0.2, 0.0)}, "data.mask_split: found 1.2, wanted a number from 0 to 1"),
        ({"data__mask_unit": "spans"}, "data.mask_unit: found 'spans', wanted one of token, .*did you mean 'span'"),
        ({"train__phases": ("9",)}, "train.phases: found '9', wanted STEP: FIELD=VALUE …, for example 90000: model."),
        (
            {"train__phases": ("9:", "9:")},
            "train.phases: found '9:', wanted a STEP above 9 and below train.steps=200000",
        ),
        ({"train__phases": ("9: seed=1",)}, "train.phases: 9: found 'seed=1', wanted FIELD=VALUE with one of model.le"),
        ({"train__phases": ("9: model.length=x",)}, "train.phases: 9: model.length: found 'x', wanted a value of type"),
        ({"train__phases": ("9: data.batch_size=0",)}, "train.phases: 9: data.batch_size: found 0, wanted at least 1"),
        ({"train__phases": ("9: model.length=1024",)}, "train.phases: 9: model.length: found 1024, wanted at most mod"),
        (
            {"train__phases": ("9: optim.accumulate=3",)},
            "9: data.batch_size: found 256, wanted a multiple of optim.acc",
        ),
        (
            {"train__phases": ("9: data.mask_rate=0.3",), "data__final_mask_rate": 0.1},
            "train.phases: 9: data.mask_rate: found 0.3 with data.final_mask_rate=0.1, wanted a rate for each phase",
        ),
        (
            {"data__batch_warmup": (64,)},
            "data.batch_warmup_steps: found 0, wanted from 1 to 199999: a step for each of",
        ),
        ({"data__batch_warmup_steps": 9}, "data.batch_warmup_steps: found 9, wanted from 0 to"),
        (
            {"data__batch_warmup": (64, 256), "data__batch_warmup_steps": 9},
            "data.batch_warmup: found 64,256, wanted sizes that rise to the first phase's data.batch_size=256",
        ),
        (
            {"data__batch_warmup": (7,), "data__batch_warmup_steps": 9, "optim__accumulate": 64},
            "data.batch_warmup: 7: data.batch_size: found 7, wanted a multiple of optim.accumulate=2",
        ),
        ({"seed": -1}, "seed: found -1, wanted at least 0"),
        (
            {"model__key_init": "query", "model__attention": "symmetric"},
            "model.key_init: found 'query' with model.attention=symmetric, wanted model.attention=standard",
        ),
        ({"model__query": "identity", "model__key_dim": 32}, "model.query: found 'identity' with model.key_dim=32"),
        ({"optim__clip": -1.0}, "optim.clip: found -1.0, wanted a finite number of at least 0"),
        ({"optim__learning_rate": float("nan")}, "optim.learning_rate: found nan"),
        ({"optim__b2": 1.0}, "optim.b2: found 1.0, wanted a fraction of at least 0 and below 1"),
        ({"seed": 2**63}, "seed: found 9.22e.18, wanted at most 4294967295; two seeds 2.32 apart"),
        ({"train__steps": 10**22}, "train.steps: found 1e.22, wanted at most 2147483647"),
        ({"train__profile_steps": f"1:{'9' * 5000}"}, "train.profile_steps: found '1:9999"),
        ({"optim__learning_rate": 10**400}, "config.optim.learning_rate: found 1000.*, wanted a value of type float"),
        ({"data__sources": 3}, "config.data.sources: found 3, wanted a list"),
        ({"data__sources": ({},)}, "config.data.sources: found {}, wanted a value of type str"),
        (
            {"train__validate_every": 300},
            "train.checkpoint_every: found 1000, wanted a multiple",
        ),
        ({"model__dropout": 1.0}, "model.dropout: found 1.0, wanted a fraction"),
        ({"train__log_every": 0}, "train.log_every: found 0, wanted at least 1"),
        (
            {"train__profile_steps": "15"},
            "train.profile_steps: found '15', wanted FIRST:LAST, steps from 1 to train.st",
        ),
        ({"train__profile_steps": "9:8"}, "train.profile_steps: found '9:8'"),
        ({"mesh__data": 0}, "mesh.data: found 0, wanted a number of devices, or -1 for all that mesh.model leaves"),
        ({"optim__name": "sgd"}, "optim.name: found 'sgd', wanted one of adamw, lamb"),
    ],
)
def test_check_names_the_wrong_field_and_the_limit(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**changes)


def test_phases_follow_each_other_and_count_the_rows_of_each_corpus() -> None:
    """The first phase begins with a batch warmup, whose micro-batches have at most as many rows as later ones."""
    config = make_config(
        data__dir="a",
        data__batch_warmup=(64, 192),
        data__batch_warmup_steps=5,
        data__mask_rate=0.2,
        optim__accumulate=2,
        train__steps=20,
        optim__warmup_steps=1,
        train__phases=(
            "10: data.batch_size=256",
            "15: data.dir=b model.length=128 data.batch_size=512 data.mask_rate=0.3",
        ),
    )
    found = [
        (phase.steps, each.data.dir, each.model.length, each.data.batch_size, each.optim.accumulate, phase.first_row)
        for phase in configs.phases(config)
        for each in [phase.config]
    ]
    assert found == [
        (range(0, 2), "a", 512, 64, 1, 0),
        (range(2, 5), "a", 512, 192, 2, 128),
        (range(5, 10), "a", 512, 256, 2, 704),
        (range(10, 15), "b", 128, 512, 2, 0),
        (range(15, 20), "a", 512, 256, 2, 1984),
    ]
    assert [phase.config.data.mask_rate for phase in configs.phases(config)] == [0.2, 0.2, 0.2, 0.3, 0.2]
    assert all(configs.phases(phase.config)[0].config == phase.config for phase in configs.phases(config))
    assert configs.rows_by_corpus(config) == {"a": 1984 + 5 * 256, "b": 5 * 512}
    assert configs.corpus_changes(config) == (10, 15)
    assert configs.tokens_until(config, 11) == 512 * (2 * 64 + 3 * 192 + 5 * 256) + 128 * 512
    assert configs.tokens_until(config, 11, {"b": 0.25}) == configs.tokens_until(config, 11) - 128 * 512 // 4
    assert [configs.phase_of(config, batch).steps.start for batch in (0, 4, 10, 19, 20)] == [0, 2, 10, 15, 15]
    assert configs.phases(Config()) == (configs.Phase("", range(200_000), Config(), 0),)


def test_every_field_is_read_outside_of_config() -> None:
    """The code reads `section.field`; model/ and sharding.py also read `config.field` or `mesh_config.field`.

    Of config/, phases.py counts: no other module needs the fields from which it makes the phases.
    """
    sections, read = {"model": "model", "sharding": "mesh"}, set()
    for path in (ROOT / "symbert_jax").rglob("*.py"):
        if path.parent.name == "config" and path.name != "phases.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
                section = sections.get(path.relative_to(ROOT / "symbert_jax").parts[0].removesuffix(".py"))
                read.add((section if section and owner in ("config", "mesh_config") else owner, node.attr))
    fields = {
        (section.name, field.name)
        for section in dataclasses.fields(Config)
        if dataclasses.is_dataclass(section.type)
        for field in dataclasses.fields(section.type)
    }
    assert len(fields) > 40
    assert not (fields | {("config", "seed"), ("config", "init_from")}) - read
    finetune_fields = {("config", field.name) for field in dataclasses.fields(configs.FinetuneConfig)}
    assert not (finetune_fields | {("glue", "source")}) - read
    study_fields = {field.name for field in dataclasses.fields(configs.StudyConfig)} - {"arms"}  # `parse_arms` reads it
    assert not study_fields - {name for owner, name in read if owner in ("study", "config")}


@dataclasses.dataclass(frozen=True)
class Section:
    behind: int = 1  # behind, with a # and é
    # above …
    above: tuple[Annotated[int, Range(2)], ...] = (
        2,
        3,
    )
    # above, in
    # two lines
    both: str = "#"  # and behind
    none: str = ""


@dataclasses.dataclass(frozen=True)
class Tree:
    top: float = 0.5  # of the tree
    section: Section = Section()


def test_walk_yields_values_limits_and_comments_of_all_fields() -> None:
    """The fields of `Section` have a comment behind them, above them, in both places, or none."""
    found = [(field.name, field.value, field.limits, field.comment) for field in configs.walk(Tree())]
    assert found == [
        ("top", 0.5, (), "of the tree"),
        ("section.behind", 1, (), "behind, with a # and é"),
        ("section.above", (2, 3), (Range(2),), "above …"),
        ("section.both", "#", (), "above, in two lines and behind"),
        ("section.none", "", (), ""),
    ]


def make_finetune_config(**changes: object) -> configs.FinetuneConfig:
    tree = configs.default_finetune()
    tree.update({"checkpoint": ("a",), **changes})
    return configs.freeze_finetune(tree)


def test_freeze_finetune_reads_lists_of_numbers_from_text() -> None:
    found = make_finetune_config(checkpoint_steps=("6000", 8000), learning_rates=("1e-5", 2e-5), tasks=("cola", "rte"))
    assert (found.checkpoint_steps, found.learning_rates) == ((6000, 8000), (1e-5, 2e-5))
    assert found.tasks == ("cola", "rte")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ()}, "checkpoint: found none, wanted the workdir of a pretrain run"),
        ({"select": "first"}, "select: found 'first', wanted one of last, best"),
        ({"seeds": -1}, "seeds: found -1, wanted at least 0"),
        ({"batch_sizes": (0,)}, "batch_sizes: found 0, wanted at least 1"),
        ({"learning_rates": (1e-5, 0.0)}, "learning_rates: found 0.0, wanted a finite number above 0"),
        ({"learning_rates": (float("inf"),)}, "learning_rates: found inf, wanted a finite number of at least 0"),
        ({"mesh": {"data": 0}}, "mesh.data: found 0, wanted a number of devices, or -1 for all"),
        ({"checkpoint_steps": (-1,)}, "checkpoint_steps: found -1, wanted at least 0"),
        ({"learning_rates": ("fast",)}, "config.learning_rates: found 'fast', wanted a value of type float"),
        ({"checkpoint_steps": ("1.5",)}, "config.checkpoint_steps: found '1.5', wanted a value of type int"),
    ],
)
def test_check_names_the_wrong_field_of_finetune(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        make_finetune_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("a: model.attention=pairwise", "a")}, "arms: found two arms 'a', wanted a name for each"),
        ({"arms": ("a/b",)}, "arms: found 'a/b', wanted NAME or NAME: FIELD=VALUE …"),
        ({"arms": ("a: model.atention=x",)}, "arms: a: model.atention: found no such field.*'model.attention'"),
        (
            {"arms": ("a: model.score_gain=big",)},
            "arms: a: model.score_gain: found 'big', wanted a value of type float",
        ),
        ({"arms": ("a: optim.learning_rate=1",)}, "arms: a: found 'optim.learning_rate=1', wanted FIELD=VALUE with"),
        ({"arms": ("a: seed=1",)}, "arms: a: found 'seed=1', wanted FIELD=VALUE with a field of model or optim"),
        ({"arms": ("a: model.heads=7",)}, "arms: a: model.dim: found 768, wanted a multiple of model.heads=7"),
        (
            {"arms": ("a: model.pairwise_init=zero",)},
            "arms: a: model.pairwise_init: found 'zero', wanted one of normal",
        ),
        ({"arms": ("a",)}, "reference: found 'standard', wanted one of the arms a"),
        ({"seeds": 0}, "seeds: found 0, wanted at least 1"),
        ({"base": {"optim": {"warmup_steps": 300_000}}}, "base.optim.warmup_steps: found 300000, wanted fewer than"),
        ({"base": {"branch_from": "x@5"}}, "base.branch_from: found 'x@5', wanted none; the runs of a study start at"),
        ({"base": {"model": {"heads": -1}}}, "base.model.heads: found -1, wanted at least 1"),
    ],
)
def test_check_names_the_wrong_field_of_study(changes, message) -> None:
    tree = configs.default_study()
    tree.update(changes if "reference" in message else {"reference": "a"} | changes if "arms" in changes else changes)
    with pytest.raises(UserError, match=message):
        configs.freeze_study(tree)


def test_arms_are_the_base_with_some_fields_changed() -> None:
    tree = configs.default_study()
    tree.arms = ("standard", "x: model.attention=pairwise model.score_gain=2 optim.name=lamb", "y: model.layers=2")
    study = configs.freeze_study(tree)
    model = dataclasses.replace(study.base.model, attention="pairwise", score_gain=2.0)
    assert configs.parse_arms(study) == {
        "standard": study.base,
        "x": dataclasses.replace(study.base, model=model, optim=dataclasses.replace(study.base.optim, name="lamb")),
        "y": dataclasses.replace(study.base, model=dataclasses.replace(study.base.model, layers=2)),
    }


def test_default_refuses_unknown_fields() -> None:
    tree = configs.default()
    assert isinstance(tree, ConfigDict)
    with pytest.raises(AttributeError, match="attention"):
        tree.model.atention = "pairwise"
