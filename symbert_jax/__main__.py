"""The command line: `python -m symbert_jax COMMAND [FLAGS]`.

  prepare   --config=FILE                   text to a tokenised corpus in config.data.dir
  pretrain  --config=FILE --workdir=DIR     trains, or goes on where DIR stands
  doctor    --config=FILE --workdir=DIR     everything that would ruin that run
  finetune  --config=configs/glue.py --workdir=DIR --config.checkpoint=PRETRAIN_WORKDIR
                                            GLUE: trains and scores every task over several seeds
  compile   --config=FILE --topology=v5e:4x4 [--find_batch] [--out=FILE.json]
                                            what a run would take on a TPU slice, by the TPU compiler's estimate
  export    --checkpoint=WORKDIR --out=DIR  a folder that stock transformers opens (--format=plpi: the paper's code)
  import    --source=DIR --workdir=DIR      such a folder as a workdir; --attention=pairwise converts a standard one
  fill      --checkpoint=WORKDIR TEXT ...   what a model expects at each [MASK] of TEXT
  compare   --out=DIR WORKDIR ...           table and plot of several runs

pretrain and finetune run on several hosts: the same command on each. On Cloud TPU, GKE and SLURM they find each other;
elsewhere each is told --coordinator=HOST:PORT --process=I --processes=N, HOST being where process 0 runs.

Any field of a config is a flag: --config.model.attention=pairwise
--xla_preset=v5e sets compiler flags that are known to suit a chip: v4, v5e, v5p, v6e, h100
"""

import importlib
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from symbert_jax import config as configs
from symbert_jax import xla_presets
from symbert_jax.config import Config, Finetune
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import absolute, is_bucket

Frozen = TypeVar("Frozen", Config, Finetune)

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where a run writes and finds its checkpoints.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The workdir of a pretrained model.")
_STEP = flags.DEFINE_integer("step", None, "Which checkpoint of it; by default the latest.")
_TOP = flags.DEFINE_integer("top", 5, "How many guesses a [MASK] gets.")
_OUT = flags.DEFINE_string("out", None, "Where results go: a folder, of compile a file.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "A TPU slice: v5e:4x4.")
_FIND_BATCH = flags.DEFINE_bool("find_batch", False, "Looks for the largest data.batch_size that fits.")
flags.DEFINE_alias("find-batch", "find_batch")
_FORMAT = flags.DEFINE_string("format", "huggingface", "Of an exported folder: huggingface | plpi.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of exported weights: float32 | bfloat16.")
_SOURCE = flags.DEFINE_string("source", None, "A folder of Hugging Face's BERT or of plpi/bert.")
_VOCAB = flags.DEFINE_string("vocab", None, "The vocabulary of a source that has none.")
_ATTENTION = flags.DEFINE_string("attention", None, "What a standard source becomes: symmetric | pairwise.")
_TEXT = flags.DEFINE_string("text", "python-docs:stdlib", "The documents that this conversion is fitted to.")
_XLA_PRESET = flags.DEFINE_string("xla_preset", None, "Compiler flags for a chip: a name of xla_presets.py.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing else tells.")
_PROCESS = flags.DEFINE_integer("process", None, "Which process this is, from 0.", lower_bound=0)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.", lower_bound=1)
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds in which all processes must come.", lower_bound=1)
_LOST_AFTER = flags.DEFINE_integer("lost_after", 100, "Seconds of silence that end a process.", lower_bound=1)
_FILL = flags.DEFINE_multi_string("fill", [], "A sentence with [MASK] that every compared model completes.")


def prepare(arguments: list[str]) -> None:
    from symbert_jax.data.corpus import prepare

    _none(arguments)
    prepare(_config(configs.freeze))


def pretrain(arguments: list[str]) -> None:
    _none(arguments)
    config, workdir = _config(configs.freeze), _workdir()
    _join(saves=True)
    from symbert_jax.train.loop import pretrain

    pretrain(config, workdir)


def doctor(arguments: list[str]) -> None:
    from symbert_jax.doctor import examine

    _none(arguments)
    _join(saves=False, patience=25)  # who asks wants to know now
    examine(_config(configs.freeze_unchecked), _workdir(), thorough=True)
    print("nothing found that would stop this run")


def finetune(arguments: list[str]) -> None:
    _none(arguments)
    config, workdir = _config(configs.freeze_finetune), _workdir()
    _join(saves=False)
    from symbert_jax.eval.finetune import finetune

    finetune(config, workdir)


def export(arguments: list[str]) -> None:
    from symbert_jax.interop.export import export

    _none(arguments)
    out = absolute(_required("out", _OUT.value))
    command = shlex.join(["python", "-m", "symbert_jax", *sys.argv[1:]])
    export(absolute(_required("checkpoint", _CHECKPOINT.value)), out, _STEP.value, _FORMAT.value, _DTYPE.value, command)


def import_(arguments: list[str]) -> None:
    from symbert_jax.interop.import_ import import_

    _none(arguments)
    source = absolute(_required("source", _SOURCE.value))
    import_(source, _workdir(), _VOCAB.value, _ATTENTION.value, _TEXT.value)


def compile(arguments: list[str]) -> None:
    from symbert_jax.compile import report

    _none(arguments)
    out = epath.Path(_OUT.value) if _OUT.value else None
    report(_config(configs.freeze), _required("topology", _TOPOLOGY.value), _FIND_BATCH.value, out)


def fill(arguments: list[str]) -> None:
    from symbert_jax.fill import Filler

    filler = Filler(absolute(_required("checkpoint", _CHECKPOINT.value)), _STEP.value)
    for text in arguments or [_required("TEXT", None)]:
        print(filler.describe(text, _TOP.value))


def compare(arguments: list[str]) -> None:
    from symbert_jax.compare import compare

    workdirs = [epath.Path(argument) for argument in arguments or [_required("WORKDIR", None)]]
    compare(workdirs, epath.Path(_required("out", _OUT.value)), _FILL.value)


_BROKEN = (TypeError, ImportError, SyntaxError, NameError, OSError)  # what a broken config file raises
_WANTED = "a file whose get_config() changes known fields of the defaults in symbert_jax/config.py"

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__.rstrip("_"): command
    for command in (prepare, pretrain, doctor, finetune, export, import_, compile, fill, compare)
}


def main(argv: list[str]) -> int:
    """Runs one command; 0 on success, 2 with a line on stderr for each mistake that the user can mend."""
    try:
        name, *arguments = _parse(argv)
        if name not in COMMANDS:
            raise UserError("command", repr(name), "a known one", did_you_mean(name, COMMANDS))
        if _XLA_PRESET.value is not None:
            print(xla_presets.apply(_XLA_PRESET.value), flush=True)
        _quiet_and_cached(_WORKDIR.value or "")
        COMMANDS[name](arguments)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    return 0


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags; what absl and ml-collections say of a wrong one becomes one line of ours."""
    if not argv or {"help", "--help", "-h"} & set(argv):
        print(__doc__)
        raise SystemExit(0)
    try:
        return flags.FLAGS(["symbert_jax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(__name__)]
        raise UserError(
            "command line", f"--{error.flagname}", "a known flag", did_you_mean(error.flagname, known)
        ) from None
    except flags.Error as error:
        raise UserError("command line", _one_line(error), "a value of the field's type") from None
    except (AttributeError, KeyError) as error:  # ml-collections names the closest field itself
        raise UserError("command line", _one_line(error), "a known field of the config") from None
    except _BROKEN as error:  # an override reads the file at once
        raise UserError("config", _one_line(error), _WANTED) from None


def _join(*, saves: bool, patience: int | None = None) -> None:
    """Makes this process one of several where it was started so; before any device is touched."""
    from symbert_jax.distributed import join

    timeout = min(_JOIN_TIMEOUT.value, patience or _JOIN_TIMEOUT.value)
    join(_COORDINATOR.value, _PROCESS.value, _PROCESSES.value, timeout, _LOST_AFTER.value, saves=saves)


def _workdir() -> epath.Path:
    return absolute(_required("workdir", _WORKDIR.value))


def _config(freeze: Callable[[ConfigDict], Frozen]) -> Frozen:
    """The config file with the command line's changes, checked."""
    _required("config", _CONFIG.value)
    if not os.path.exists(file := config_flags.get_config_filename(flags.FLAGS["config"])):
        raise UserError("config", f"no file {file}", "one of configs/ or of yours")
    try:
        return freeze(_CONFIG.value)
    except (AttributeError, *_BROKEN) as error:
        raise UserError("config", _one_line(error), _WANTED) from None


def _required(flag: str, value: Any) -> Any:
    if value is None:
        raise UserError("command line", f"no {flag}", f"{flag}", "see python -m symbert_jax --help")
    return value


def _none(arguments: list[str]) -> None:
    if arguments:
        raise UserError("command line", repr(arguments[0]), "only flags", "flags look like --config.seed=1")


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def _quiet_and_cached(workdir: str) -> None:
    """Compiled programs outlive the process, in a bucket the machine; libraries speak only when something is wrong."""
    cache = f"{workdir.rstrip('/')}/xla" if is_bucket(workdir) else os.path.expanduser("~/.cache/symbert_jax/xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a start has dozens of quick ones
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    importlib.import_module("jax")  # it looks for TPU chips, and sets this variable where there are none
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # libtpu, if installed, would miss aloud what only a TPU host knows
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
