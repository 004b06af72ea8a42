"""Reads the arguments of a command: absl reads its flags, ml-collections `--config` and the fields of the config."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import NoReturn

from absl import flags
from etils import epath
from ml_collections import config_flags

from symbert_jax.cli import config_file
from symbert_jax.cli.commands import COMMANDS, Command
from symbert_jax.cli.flags import CONFIG, define
from symbert_jax.errors import UserError, closest, did_you_mean
from symbert_jax.storage import absolute


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the name of the command and all other arguments; flags may stand before the name.

    Raises:
      UserError: there is no such command.
    """
    words = _before_dashes(argv)
    at = 0
    if words and words[0].startswith("-"):
        at = next((i for i, word in enumerate(words) if word in COMMANDS), 0)
    if not words or words[at] not in COMMANDS:
        word = next((word for word in words if not word.startswith("-")), "")
        raise UserError("command", repr(word), "a known one", did_you_mean(word, COMMANDS))
    return words[at], argv[:at] + argv[at + 1 :]


def help_topic(argv: list[str]) -> str | None:
    """Returns None if the arguments do not ask for help, else the command that they ask about, empty if about none."""
    words = _before_dashes(argv)
    if words and words[0] != "help" and not {"--help", "-h"} & set(words):
        return None
    words = words[1:] if words[:1] == ["help"] else words
    return "" if all(word.startswith("-") for word in words) else split_command(words)[0]


def parse(name: str, argv: list[str]) -> SimpleNamespace:
    """Returns the value of each flag of a command by its name, the config as a `ConfigFile`, and `arguments`.

    Raises:
      UserError: for whatever absl, ml-collections and the config file raise.
    """
    command, values, path = COMMANDS[name], flags.FlagValues(), ""
    for flag in command.flags:
        if flag is not CONFIG:
            define(flag, values)
    flags.FLAGS.mark_as_parsed()  # libraries read theirs
    try:
        argv = values.read_flags_from_files(argv)
    except (flags.Error, ValueError) as error:  # ValueError: not UTF-8
        raise UserError("flagfile", config_file.one_line(error), "a text file of flags") from None
    own = _before_dashes(argv)
    if command.config:
        _check_fields(name, own)
        own, path = config_file.find_file(config_file.quote_lists(own, command.fields))
        sys.path.append(os.path.dirname(os.path.abspath(path)))  # for modules beside the config file
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=own)
    try:
        arguments = values(["symbert_jax", *own, *argv[len(own) :]])[1:]
    except SystemExit as stop:
        raise config_file.exits(path, stop.code) from None
    except flags.UnrecognizedFlagError as error:
        _refuse_flag(name, error.flagname)
    except Exception as error:  # absl, ml-collections or the config file, which is read at once
        if cause := config_file.cause_in_file(error, path):
            raise config_file.as_user_error(cause, path) from None
        if isinstance(error, flags.Error):
            raise UserError("command line", config_file.one_line(error), "a value that the flag takes") from None
        raise config_file.as_user_error(error, path) from None
    return _given(name, command, values, path, arguments)


def _given(name: str, command: Command, values: flags.FlagValues, path: str, arguments: list[str]) -> SimpleNamespace:
    """Returns the values that a command takes; raises `UserError` if one is missing or an argument is left over."""
    if arguments and not command.arguments:
        raise UserError("command line", repr(arguments[0]), "only flags", "flags look like --config.seed=1")
    given = SimpleNamespace(arguments=arguments)
    for flag in command.flags:
        value = values[flag.name].value
        if flag is CONFIG and path:
            value = config_file.ConfigFile(path, value)
        elif flag.required and value is None:
            _miss(name, f"--{flag.name}", f"--{flag.name}={flag.value}")
        elif flag.type is epath.Path and value is not None:
            value = absolute(value, flag.name)
        setattr(given, flag.name, value)
    if command.arguments and not arguments:
        _miss(name, command.arguments, command.arguments)
    return given


def _check_fields(name: str, own: list[str]) -> None:
    """Raises `UserError` if an argument sets a field that the config of the command does not have."""
    fields = COMMANDS[name].fields
    for argument in own:
        match = re.fullmatch(r"--?(?:no)?config\.([^=]*)(?:=.*)?", argument, re.DOTALL)
        if match and match[1] not in fields:
            hint = _owners(match[1], lambda command: command.fields) or did_you_mean(match[1], fields)
            raise UserError(f"config.{match[1]}", "no such field", "a known one", hint)


def _refuse_flag(name: str, flag: str) -> NoReturn:
    """Raises the error for a flag that the command does not have: it belongs to another one, or is misspelled."""
    command, is_field = COMMANDS[name], bool(re.match(r"(no)?config\.", flag))
    if is_field and command.config:
        _miss(name, "--config", "--config=FILE")
    hint = _owners("config" if is_field else flag, _spellings)
    known = [known.name for known in command.flags]
    if not hint and name == "fill" and not closest(flag, known):
        hint = "put -- before a text that begins with -"
    raise UserError("command line", f"--{flag}", f"a flag of {name}", hint or did_you_mean(flag, known))


def _owners(name: str, known: Callable[[Command], Iterable[str]]) -> str:
    """Returns the hint that names the commands that know a flag or a field, empty if none does."""
    owners = [owner for owner, command in COMMANDS.items() if name in known(command)]
    return f"it belongs to {', '.join(owners)}" if owners else ""


def _spellings(command: Command) -> Iterator[str]:
    for flag in command.flags:
        yield from (flag.name, flag.alias or flag.name, f"no{flag.name}")


def _miss(name: str, what: str, wanted: str) -> NoReturn:
    raise UserError("command line", f"no {what}", wanted, f"see python -m symbert_jax {name} --help")


def _before_dashes(argv: list[str]) -> list[str]:
    """Returns the arguments before `--`: a text behind it may look like a flag."""
    return argv[: argv.index("--")] if "--" in argv else argv
