"""The commands: the flags of each, and the function that runs it.

Each function imports what it needs when it runs, so that `--help` starts fast.
"""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable
from typing import Any

from etils import epath

from symbert_jax import config as configs
from symbert_jax.cli.flags import BEAM, CHECKPOINT, CONFIG, OUT, PROCESSES, STEP, WEIGHTS, WORKDIR, XLA_PRESET, Flag
from symbert_jax.config import Config, FinetuneConfig, StudyConfig
from symbert_jax.storage import absolute


@dataclasses.dataclass(frozen=True)
class Command:
    run: Callable[[Any], None]  # takes the namespace that `parsing.parse` returns
    summary: str
    example: str  # flags and arguments of a typical call
    flags: tuple[Flag, ...]
    # how help names the arguments that are not flags; at least one is required, or none is allowed if this is empty
    argument_placeholder: str = ""
    config: type[Config] | type[FinetuneConfig] | type[StudyConfig] | None = (
        None  # the type of its config, if it takes --config
    )

    @functools.cached_property
    def field_defaults(self) -> dict[str, Any]:
        """The default of each field of the config, by dotted name; empty without a config."""
        return configs.values_by_name(self.config()) if self.config else {}


def run_prepare(given: Any) -> None:
    from symbert_jax.data.prepare.command import prepare

    for config in configs.corpus_configs(given.config_file.to_config(configs.freeze)):
        prepare(config, given.beam or "")


def run_pretrain(given: Any) -> None:
    config = given.config_file.to_config(configs.freeze)
    _join(given, saves=True)
    from symbert_jax.train.loop import pretrain

    pretrain(config, given.workdir)


def run_doctor(given: Any) -> None:
    from symbert_jax.data.corpus import Corpora
    from symbert_jax.train.doctor import check

    _join(given, saves=False, timeout=min(given.join_timeout, 25))  # seconds; the user waits for the answer
    config = given.config_file.to_config(configs.freeze_unchecked)
    check(config, Corpora(), given.workdir, thorough=True)
    print("nothing found that would stop this run")


def run_finetune(given: Any) -> None:
    config = given.config_file.to_config(configs.freeze_finetune)
    _join(given, saves=False)
    from symbert_jax.eval.finetune import finetune

    finetune(config, given.workdir)


def run_compile(given: Any) -> None:
    from symbert_jax.estimate.report import report

    report(given.config_file.to_config(configs.freeze), given.topology, given.find_batch, given.out)


def run_export(given: Any) -> None:
    from symbert_jax.interop.export import export

    typed_command = shlex.join(["python", "-m", "symbert_jax", *sys.argv[1:]])
    export(given.checkpoint, given.out, given.step, given.format, given.dtype, typed_command, given.weights)


def run_import(given: Any) -> None:
    from symbert_jax.interop.import_ import import_

    import_(given.source, given.workdir, given.vocab, given.attention, given.text)


def run_average(given: Any) -> None:
    from symbert_jax.train.average import average

    average(given.checkpoint, given.workdir, given.steps, given.last)


def run_fill(given: Any) -> None:
    from symbert_jax.inference import fill

    fill(given.checkpoint, given.step, given.arguments, given.top, given.weights)


def run_compare(given: Any) -> None:
    from symbert_jax.compare import compare

    workdirs = [absolute(workdir, "WORKDIR") for workdir in given.arguments]
    compare(workdirs, given.out, given.fill, given.reference)


def run_study(given: Any) -> None:
    from symbert_jax.study.command import study

    config = given.config_file.to_config(configs.freeze_study)
    study(config, given.workdir, configs.split_list(given.arms or ""), given.report)


def _join(given: Any, *, saves: bool, timeout: int | None = None) -> None:
    """Joins the other processes of the run, if there are any, within `timeout` seconds, by default --join_timeout.

    saves: whether the run saves a checkpoint when a signal stops it, see `distributed.join`.
    """
    from symbert_jax.distributed import join

    timeout = timeout or given.join_timeout
    join(given.coordinator, given.process, given.processes, timeout, given.lost_after, saves=saves)


COMMANDS = {
    "prepare": Command(
        run_prepare,
        "tokenizes text: writes the corpus in config.data.dir, and those of config.train.phases",
        "--config=configs/mini.py --config.data.vocab=vocab.txt \\\n"
        "      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'",
        (CONFIG, BEAM),
        config=Config,
    ),
    "pretrain": Command(
        run_pretrain,
        "trains a model; continues from the latest checkpoint in its workdir, if there is one",
        "--config=configs/tiny.py --workdir=runs/tiny --config.model.attention=pairwise",
        (CONFIG, WORKDIR, XLA_PRESET, *PROCESSES),
        config=Config,
    ),
    "doctor": Command(
        run_doctor,
        "reports everything that would make `pretrain` with the same flags fail; changes nothing",
        "--config=configs/tiny.py --workdir=runs/tiny --config.model.attention=pairwise",
        (CONFIG, WORKDIR, XLA_PRESET, *PROCESSES),
        config=Config,
    ),
    "finetune": Command(
        run_finetune,
        "trains and scores every GLUE task over several seeds, from config.checkpoint",
        "--config=configs/glue.py --workdir=runs/glue \\\n"
        "      --config.checkpoint=runs/base --config.glue.source=tsv:glue",
        (CONFIG, WORKDIR, XLA_PRESET, *PROCESSES),
        config=FinetuneConfig,
    ),
    "compile": Command(
        run_compile,
        "compiles the training step for a TPU slice you need not have; reports memory, FLOPs and estimated step time",
        "--config=configs/base_fast.py --topology=v5e:4x4 --find_batch",
        (
            CONFIG,
            Flag("topology", "SLICE", "the TPU slice: v4:XxYxZ, v5e:XxY, v5p:XxYxZ or v6e:XxY", required=True),
            Flag(
                "find_batch",
                "",
                "finds the fastest data.batch_size that fits",
                bool,
                False,
                alias="find-batch",
            ),
            Flag("out", "FILE", "a file for the report as JSON", epath.Path),
            XLA_PRESET,
        ),
        config=Config,
    ),
    "export": Command(
        run_export,
        "writes a folder that stock transformers, or the paper's own code, opens",
        "--checkpoint=runs/tiny --out=bert-tiny --dtype=bfloat16",
        (
            CHECKPOINT,
            OUT,
            STEP,
            WEIGHTS,
            Flag(
                "format",
                "FORMAT",
                "huggingface, or plpi, the format of the paper's own code",
                default="huggingface",
            ),
            Flag("dtype", "DTYPE", "type of the weights: float32 or bfloat16", default="float32"),
        ),
    ),
    "import": Command(
        run_import,
        "makes a workdir from a BERT in the format of Hugging Face or of the paper's code; can convert its attention",
        "--source=downloads/bert-base-uncased --workdir=runs/imported --attention=pairwise",
        (
            Flag(
                "source",
                "DIR",
                "the folder of a BERT in the format of Hugging Face or of the paper's code",
                epath.Path,
                required=True,
            ),
            WORKDIR,
            Flag("vocab", "VOCAB", "a vocabulary, if the source has none; written like config.data.vocab"),
            Flag("attention", "VARIANT", "converts a standard source to symmetric or pairwise"),
            Flag(
                "text",
                "SOURCE",
                "documents to which the conversion is fitted",
                default="python-docs:stdlib",
            ),
        ),
    ),
    "average": Command(
        run_average,
        "makes a workdir like that of `import` with the mean of the parameters of several checkpoints of a run",
        "--checkpoint=runs/base --last=3 --workdir=runs/averaged",
        (
            CHECKPOINT,
            Flag("steps", "N,N,…", "the steps of the checkpoints"),
            Flag("last", "K", "averages the latest K checkpoints", int, least=2),
            WORKDIR,
        ),
    ),
    "fill": Command(
        run_fill,
        "prints the tokens that a model predicts for each [MASK] in TEXT; put -- before a TEXT that begins with -",
        '--checkpoint=runs/tiny "The capital of [MASK] is Paris."',
        (CHECKPOINT, STEP, WEIGHTS, Flag("top", "N", "number of predictions per [MASK]", int, 5, least=1)),
        "TEXT",
    ),
    "compare": Command(
        run_compare,
        "reports on one or more runs: report.html with tables and plots, loss.png, and table.md",
        '--out=runs/compared --fill="A [MASK] sentence." runs/standard runs/pairwise',
        (
            OUT,
            Flag("fill", "TEXT", "a text whose [MASK]s every model fills; can be repeated", list, ()),
            Flag(
                "reference",
                "CURVES",
                "validation losses to draw behind those of the runs: paper, those of BERT-base in the paper, which are "
                "downloaded once; paper-small, of BERT-small; or FILE.csv with the header step,NAME,NAME… and per line "
                "a step and a loss in nats for each name, or an empty cell",
            ),
        ),
        "WORKDIR",
    ),
    "study": Command(
        run_study,
        "trains every arm of a study with every learning rate and seed, and reports means and paired differences",
        "--config=configs/study_python_docs.py --workdir=runs/study \\\n      --arms=uniform,standard,pairwise_normal",
        (
            CONFIG,
            WORKDIR,
            Flag("arms", "NAMES", "trains only these arms, separated by commas; by default all"),
            Flag("report", "", "writes the report of the runs that are finished, and trains none", bool, False),
            XLA_PRESET,
        ),
        config=StudyConfig,
    ),
}
