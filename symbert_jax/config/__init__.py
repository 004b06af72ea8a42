"""The configuration: files and flags change an ml-collections `ConfigDict`, the program reads frozen dataclasses.

A config file defines a function `get_config()`. It starts from `default()` (the paper's BERT-base recipe),
`config.get_config(NAME)` (the config of a file in configs/), `default_finetune()` or `default_study()`, and changes the
fields that differ. Flags override any field (`--config.model.attention=pairwise`). `freeze` then checks all fields and
returns the immutable, hashable `Config` that every other module reads; `freeze_finetune` and `freeze_study` do the same
for a `FinetuneConfig` and a `StudyConfig`.

Reading order: `schema`, the fields; `limits`, which values a field may have; `walk`, all fields of a config with their
comments; `changes`, changes that are written as text; `arms`, the arms of a study; `phases`, the phases of a run;
`checks`, the rules between fields; `convert`, to and from `ConfigDict`, mappings and JSON; `files`, the config files in
configs/.
"""

from symbert_jax.config.arms import parse_arms
from symbert_jax.config.checks import check, problems, split_problems
from symbert_jax.config.convert import (
    ConfigDict,
    default,
    default_finetune,
    default_study,
    freeze,
    freeze_finetune,
    freeze_study,
    freeze_unchecked,
    from_dict,
    from_json,
    read,
    split_list,
    to_json,
)
from symbert_jax.config.files import find, get_config
from symbert_jax.config.phases import (
    PHASE_FIELDS,
    Phase,
    corpus_changes,
    corpus_configs,
    phase_of,
    phases,
    rows_by_corpus,
    tokens_per_batch,
    tokens_until,
)
from symbert_jax.config.schema import (
    ATTENTIONS,
    KERNELS,
    WEIGHTS,
    Config,
    DataConfig,
    FinetuneConfig,
    GlueConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    StudyConfig,
    TrainConfig,
)
from symbert_jax.config.walk import Field, field_comments, values_by_name, walk

__all__ = [
    "ATTENTIONS",
    "KERNELS",
    "PHASE_FIELDS",
    "WEIGHTS",
    "Config",
    "ConfigDict",
    "DataConfig",
    "Field",
    "FinetuneConfig",
    "GlueConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "Phase",
    "StudyConfig",
    "TrainConfig",
    "check",
    "corpus_changes",
    "corpus_configs",
    "default",
    "default_finetune",
    "default_study",
    "field_comments",
    "find",
    "freeze",
    "freeze_finetune",
    "freeze_study",
    "freeze_unchecked",
    "from_dict",
    "from_json",
    "get_config",
    "parse_arms",
    "phase_of",
    "phases",
    "problems",
    "read",
    "rows_by_corpus",
    "split_list",
    "split_problems",
    "to_json",
    "tokens_per_batch",
    "tokens_until",
    "values_by_name",
    "walk",
]
