"""The texts of help: an overview of all commands, and for each command its flags and the fields of its config."""

import textwrap

from symbert_jax import config as configs
from symbert_jax.cli.commands import COMMANDS, Command
from symbert_jax.cli.flags import Flag
from symbert_jax.config import Config, FinetuneConfig, StudyConfig
from symbert_jax.config.limits import Choice

_WIDTH = 120
_OVERVIEW = """\
The command line: python -m symbert_jax COMMAND [FLAGS]; once the package is installed, symbert COMMAND [FLAGS]

{commands}

The flags of a command, and the fields of its config: python -m symbert_jax COMMAND --help

Any field of a config is a flag:
    --config.model.attention=pairwise
A field that holds a list takes its parts separated by commas, with double quotes around a part that contains a comma:
    --config.data.sources='jsonl:wiki/*.jsonl.gz,"text:a, b.txt"'
On several hosts, start the same pretrain or finetune on each. On Cloud TPU, GKE and SLURM the processes find each
other; elsewhere give these flags to each process I from 0 to N - 1, where HOST is the host of process 0:
    --coordinator=HOST:PORT --process=I --processes=N
"""
_COMMAND = """\
python -m symbert_jax {usage}

{summary}

flags
{flags}
{fields}
example
    python -m symbert_jax {name} {example}
"""
_FIELDS = """
fields of the config, with their defaults
  {doc}
{fields}
"""


def overview() -> str:
    """Returns the text of `--help`: the commands and what they have in common."""
    rows = [_row(f"  {name:8}  {required(command)}", command.summary, column=46) for name, command in COMMANDS.items()]
    return _OVERVIEW.format(commands="\n".join(rows))


def describe(name: str) -> str:
    """Returns the text of `COMMAND --help`."""
    command = COMMANDS[name]
    return _COMMAND.format(
        usage=f"{name} [FLAGS] {required(command)}",
        summary=command.summary,
        flags="\n".join(map(_flag, command.flags)),
        fields=_fields(command.config()) if command.config else "",
        name=name,
        example=command.example,
    )


def required(command: Command) -> str:
    """Returns the flags and arguments that a command requires, as a usage line shows them."""
    flags = [f"--{flag.name}={flag.placeholder}" for flag in command.flags if flag.required]
    return " ".join([*flags, *([f"{command.argument_placeholder} ..."] if command.argument_placeholder else [])])


def _flag(flag: Flag) -> str:
    head = f"  --{flag.name}={flag.placeholder}" if flag.placeholder else f"  --{flag.name}"
    notes = "required" if flag.required else f"by default {flag.default}" if flag.default else ""
    return _row(head, "; ".join(filter(None, (flag.help, notes))), column=28)


def _fields(config: Config | FinetuneConfig | StudyConfig) -> str:
    return _FIELDS.format(doc=config.__doc__, fields="\n".join(map(_field, configs.walk(config))))


def _field(field: configs.Field) -> str:
    default = ",".join(map(str, field.value)) if isinstance(field.value, tuple) else field.value
    choices = [str(limit) for limit in field.limits if isinstance(limit, Choice)]
    return _row(f"  --config.{field.name}={default}", "; ".join([field.comment, *choices]), column=42)


def _row(head: str, text: str, column: int) -> str:
    """Returns `head` and the text, wrapped and indented to `column`; a long head has a line of its own."""
    indent = " " * column
    # Flags and values contain hyphens, too.
    wrapped = textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return f"{head}\n{wrapped}" if len(head) > column - 2 else head + wrapped[len(head) :]
