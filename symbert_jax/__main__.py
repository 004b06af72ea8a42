"""The command line: `python -m symbert_jax COMMAND [FLAGS]`.

  prepare   --config=FILE                   text to a tokenised corpus in config.data.dir
  pretrain  --config=FILE --workdir=DIR     trains, from the latest checkpoint in DIR if there is one
  doctor    --config=FILE --workdir=DIR     reports everything that would ruin that run
  finetune  --config=configs/glue.py --workdir=DIR --config.checkpoint=PRETRAIN_WORKDIR
                                            GLUE: trains and scores every task over several seeds
  compile   --config=FILE --topology=v5e:4x4 [--find_batch] [--out=FILE.json]
                                            memory and time on a TPU slice, by the TPU compiler's estimate
  export    --checkpoint=WORKDIR --out=DIR [--format=plpi] [--dtype=bfloat16]
                                            a folder that stock transformers opens, or the paper's own code
  import    --source=DIR --workdir=DIR [--attention=pairwise]
                                            such a folder as a workdir, or a standard BERT converted
  fill      --checkpoint=WORKDIR TEXT ...   what a model expects at each [MASK] of TEXT
  compare   --out=DIR WORKDIR ...           table and plot of several runs

pretrain and finetune run on several hosts: the same command on each. On Cloud TPU, GKE and SLURM they find each other;
elsewhere each gets these flags, HOST being where process 0 runs:
    --coordinator=HOST:PORT --process=I --processes=N
Any field of a config is a flag:
    --config.model.attention=pairwise
A field that holds a list takes its parts divided by commas, with double quotes around a part that holds a comma:
    --config.data.sources='jsonl:wiki/*.jsonl.gz,"text:a, b.txt"'
A text that begins with - is put behind --:
    fill --checkpoint=WORKDIR -- "- the [MASK]"
Compiler flags that are known to suit a chip (v4, v5e, v5p, v6e, h100):
    --xla_preset=v5e
"""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from symbert_jax import config as configs
from symbert_jax.cli import process, xla_presets
from symbert_jax.config import Config, FinetuneConfig
from symbert_jax.errors import UserError, closest, did_you_mean
from symbert_jax.storage import absolute

Frozen = TypeVar("Frozen", Config, FinetuneConfig)

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where a run writes and finds its checkpoints.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The workdir of a pretrained model.")
_STEP = flags.DEFINE_integer("step", None, "Which checkpoint of it; by default the latest.", lower_bound=0)
_TOP = flags.DEFINE_integer("top", 5, "How many guesses a [MASK] gets.", lower_bound=1)
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
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no launcher sets it.")
_PROCESS = flags.DEFINE_integer("process", None, "The index of this process, from 0.", lower_bound=0)
_PROCESSES = flags.DEFINE_integer("processes", None, "The number of processes.", lower_bound=1)
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds for all processes to join.", lower_bound=1)
_LOST_AFTER = flags.DEFINE_integer("lost_after", 100, "Seconds without a heartbeat from a lost process.", lower_bound=1)
_FILL = flags.DEFINE_multi_string("fill", [], "A sentence with [MASK] that every compared model completes.")


def prepare(arguments: list[str]) -> None:
    from symbert_jax.data.prepare import prepare

    _check_no_arguments(arguments)
    prepare(_config(configs.freeze))


def pretrain(arguments: list[str]) -> None:
    _check_no_arguments(arguments)
    config, workdir = _config(configs.freeze), _workdir()
    _join(saves=True)
    from symbert_jax.train.loop import pretrain

    pretrain(config, workdir)


def doctor(arguments: list[str]) -> None:
    from symbert_jax.data.corpus import Corpus
    from symbert_jax.train.doctor import check

    _check_no_arguments(arguments)
    _join(saves=False, timeout=25)  # who asks waits for the answer
    config = _config(configs.freeze_unchecked)
    check(config, Corpus(config.data.dir), _workdir(), thorough=True)
    print("nothing found that would stop this run")


def finetune(arguments: list[str]) -> None:
    _check_no_arguments(arguments)
    config, workdir = _config(configs.freeze_finetune), _workdir()
    _join(saves=False)
    from symbert_jax.eval.finetune import finetune

    finetune(config, workdir)


def export(arguments: list[str]) -> None:
    from symbert_jax.interop.export import export

    _check_no_arguments(arguments)
    command = shlex.join(["python", "-m", "symbert_jax", *sys.argv[1:]])
    export(_checkpoint(), _out(), _STEP.value, _FORMAT.value, _DTYPE.value, command)


def import_(arguments: list[str]) -> None:
    from symbert_jax.interop.import_ import import_

    _check_no_arguments(arguments)
    source = absolute(_required("source", _SOURCE.value), "source")
    import_(source, _workdir(), _VOCAB.value, _ATTENTION.value, _TEXT.value)


def compile(arguments: list[str]) -> None:
    from symbert_jax.estimate.report import report

    _check_no_arguments(arguments)
    out = _out() if _OUT.value is not None else None
    report(_config(configs.freeze), _required("topology", _TOPOLOGY.value), _FIND_BATCH.value, out)


def fill(arguments: list[str]) -> None:
    from symbert_jax.inference import Filler

    filler = Filler(_checkpoint(), _STEP.value)
    for text in arguments or [_required("TEXT", None)]:
        print(filler.describe(text, _TOP.value))


def compare(arguments: list[str]) -> None:
    from symbert_jax.compare import compare

    workdirs = [absolute(argument, "WORKDIR") for argument in arguments or [_required("WORKDIR", None)]]
    compare(workdirs, _out(), _FILL.value)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__.rstrip("_"): command
    for command in (prepare, pretrain, doctor, finetune, export, import_, compile, fill, compare)
}


def main(argv: list[str]) -> int:
    """Runs one command; returns its exit code, see `process.run_command`."""
    process.protect_streams()
    return process.run_command(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    name, *arguments = _parse(argv) or [""]
    if name not in COMMANDS:
        raise UserError("command", repr(name), "a known one", did_you_mean(name, COMMANDS))
    process.check_limits()
    if _XLA_PRESET.value is not None:
        print(xla_presets.apply(_XLA_PRESET.value), flush=True)
    process.configure_libraries(_WORKDIR.value or "")
    COMMANDS[name](arguments)


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags and returns all other arguments.

    Raises:
      UserError: instead of what absl, ml-collections and the config file raise.
    """
    own = argv[: argv.index("--")] if "--" in argv else argv  # a text behind -- may look like a flag
    if not own or own[0] == "help" or {"--help", "-h"} & set(own):
        print(__doc__)
        raise SystemExit(0)
    files = _config_files(own)
    sys.path += [os.path.dirname(os.path.abspath(file)) for file in files]  # for modules beside the config file
    quoted = _quote_lists(argv)
    try:
        return flags.FLAGS(["symbert_jax", *quoted])[1:]
    except SystemExit as stop:
        raise UserError("config", f"{files[0] if files else ''} exits with {stop.code}", _CONFIG_FILE) from None
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(__name__)]
        hint = did_you_mean(error.flagname, known)
        if argv[0] == "fill" and not closest(error.flagname, known):
            hint = "put -- before a text that begins with -"
        raise UserError("command line", f"--{error.flagname}", "a known flag", hint) from None
    except Exception as error:  # the config file is read at once
        file, cause = files[0] if files else "", error
        while not _line_of(cause, file) and isinstance(cause.__context__, Exception):
            cause = cause.__context__  # absl raises its own of what it caught
        if _line_of(cause, file):
            raise _config_error(cause, file) from None
        if isinstance(error, flags.Error):
            raise UserError("command line", _one_line(error), "a value of the field's type") from None
        if isinstance(error, AttributeError | KeyError):
            raise UserError("command line", _one_line(error), "a known field of this command's config") from None
        raise _config_error(error, file) from None


def _config_files(argv: list[str]) -> list[str]:
    """Returns the path that each --config names, without the parameter that may follow a colon."""
    files = []
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        if found := re.fullmatch(r"--?config(?:=(.*))?", flag, re.DOTALL):
            value = following if found[1] is None else found[1]
            files.append(value.partition(":")[0])
    return files


def _quote_lists(argv: list[str]) -> list[str]:
    """Returns the arguments with list fields as Python tuples, the only form that ml-collections does not split."""
    known = configs.fields(Config()) | configs.fields(FinetuneConfig())
    lists = {name for name, value in known.items() if isinstance(value, tuple)}
    quoted, end = list(argv), argv.index("--") if "--" in argv else len(argv)
    for i, argument in enumerate(argv[:end]):
        found = re.fullmatch(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if found and found[1] not in known:
            raise UserError(f"config.{found[1]}", "no such field", "a known one", did_you_mean(found[1], known))
        if found and found[1] in lists:
            if found[2] is not None:
                quoted[i] = f"--config.{found[1]}={tuple(configs.split_list(found[2]))!r}"
            elif i + 1 < end:
                quoted[i + 1] = repr(tuple(configs.split_list(argv[i + 1])))
    return quoted


def _config_error(error: Exception, file: str) -> UserError:
    """Returns the error for an exception: in the config file, with the line, or over what the file returned."""
    if line := _line_of(error, file):
        return UserError("config", f"{file}, line {line}: {type(error).__name__}: {_one_line(error)}", _CONFIG_FILE)
    return UserError("config", f"{file}: {_one_line(error)}", _CONFIG_FILE)


_CONFIG_FILE = "a file whose get_config() changes known fields of the defaults in symbert_jax/config.py"


def _line_of(error: Exception, file: str) -> int:
    """Returns the last line of a config file in the traceback of an error, 0 where none of it is there."""
    path = os.path.realpath(file)
    if isinstance(error, SyntaxError) and error.filename and os.path.realpath(error.filename) == path:
        return error.lineno or 0
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if os.path.realpath(at.filename) == path]
    return (lines[-1] or 0) if lines else 0


def _join(*, saves: bool, timeout: int | None = None) -> None:
    """Joins the other processes of the run, if there are any, within the shorter of `timeout` and --join_timeout."""
    from symbert_jax.distributed import join

    timeout = min(_JOIN_TIMEOUT.value, timeout or _JOIN_TIMEOUT.value)
    join(_COORDINATOR.value, _PROCESS.value, _PROCESSES.value, timeout, _LOST_AFTER.value, saves=saves)


def _workdir() -> epath.Path:
    return absolute(_required("workdir", _WORKDIR.value), "workdir")


def _checkpoint() -> epath.Path:
    return absolute(_required("checkpoint", _CHECKPOINT.value), "checkpoint")


def _out() -> epath.Path:
    return absolute(_required("out", _OUT.value), "out")


def _config(freeze: Callable[[ConfigDict], Frozen]) -> Frozen:
    """Returns the config of the file and the command line, checked by `freeze`."""
    if not flags.FLAGS["config"].present:
        _required("config", None)
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if not os.path.isfile(file):
        raise UserError("config", f"no file {file}", "one of configs/ or of yours")
    if _CONFIG.value is None:
        raise UserError("config", f"{file}: get_config() returns nothing", _CONFIG_FILE)
    try:
        return freeze(_CONFIG.value)
    except UserError:
        raise
    except Exception as error:
        raise _config_error(error, file) from None


def _required(flag: str, value: Any) -> Any:
    if value is None:
        raise UserError("command line", f"no {flag}", f"{flag}", "see python -m symbert_jax --help")
    return value


def _check_no_arguments(arguments: list[str]) -> None:
    if arguments:
        raise UserError("command line", repr(arguments[0]), "only flags", "flags look like --config.seed=1")


def _one_line(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    if "Traceback (most recent call last)" in text:  # ml-collections passes on what a config file raised
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if distributed := sys.modules.get("symbert_jax.distributed"):  # of commands that may run in several processes
        distributed.leave(code)
    sys.exit(code)
