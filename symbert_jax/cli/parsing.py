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
from symbert_jax.errors import UserError, did_you_mean, spelling_hint
from symbert_jax.storage import absolute


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the name of the command and all other arguments; flags may stand before the name.

    Raises:
      UserError: there is no such command.
    """
    words = _before_dashes(argv)
    index = 0
    if words and words[0].startswith("-"):
        index = next((i for i, word in enumerate(words) if word in COMMANDS), 0)
    if not words or words[index] not in COMMANDS:
        word = next((word for word in words if not word.startswith("-")), "")
        raise UserError("command", repr(word), "a known one", did_you_mean(word, COMMANDS))
    return words[index], argv[:index] + argv[index + 1 :]


def help_topic(argv: list[str]) -> str | None:
    """Returns the command that the arguments ask about, empty for help in general; None if they do not ask for help."""
    words = _before_dashes(argv)
    if words and words[0] != "help" and not {"--help", "-h"} & set(words):
        return None
    words = words[1:] if words[:1] == ["help"] else words
    return "" if all(word.startswith("-") for word in words) else split_command(words)[0]


def parse(name: str, argv: list[str]) -> SimpleNamespace:
    """Returns a namespace with the value of each flag by its name.

    For the flag --config, it has `config_file`, a `ConfigFile`. The list `arguments` holds what is not a flag.

    Raises:
      UserError: a flag, a field or an argument is wrong or missing, or the config file fails.
    """
    command, values, path = COMMANDS[name], flags.FlagValues(), ""
    for flag in command.flags:
        if flag is not CONFIG:
            define(flag, values)
    flags.FLAGS.mark_as_parsed()  # libraries read their own flags, which keep their defaults
    try:
        argv = values.read_flags_from_files(argv)
    except (flags.Error, ValueError) as error:  # ValueError: not UTF-8
        raise UserError("flagfile", config_file.one_line(error), "a text file of flags") from None
    before_dashes = _before_dashes(argv)
    if command.config:
        _check_fields(name, before_dashes)
        before_dashes = config_file.quote_lists(before_dashes, command.field_defaults)
        before_dashes, path = config_file.find_file(before_dashes)
        sys.path.append(os.path.dirname(os.path.abspath(path)))  # for modules beside the config file
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=before_dashes)
    try:
        arguments = values(["symbert_jax", *before_dashes, *argv[len(before_dashes) :]])[1:]
    except SystemExit as stop:
        raise config_file.exit_error(path, stop.code) from None
    except flags.UnrecognizedFlagError as error:
        _raise_unknown_flag(name, error.flagname)
    except Exception as error:  # from absl, ml-collections or the config file, which absl runs while it parses
        if cause := config_file.cause_in_file(error, path):
            raise config_file.as_user_error(cause, path) from None
        if isinstance(error, flags.Error):
            raise UserError("command line", config_file.one_line(error), "a value that the flag takes") from None
        raise config_file.as_user_error(error, path) from None
    return _to_namespace(name, command, values, path, arguments)


def _to_namespace(
    name: str, command: Command, values: flags.FlagValues, path: str, arguments: list[str]
) -> SimpleNamespace:
    """Returns the namespace of a command; raises `UserError` if a value is missing or an argument is left over."""
    if arguments and not command.argument_placeholder:
        raise UserError("command line", repr(arguments[0]), "only flags", "flags look like --config.seed=1")
    given = SimpleNamespace(arguments=arguments)
    for flag in command.flags:
        value = values[flag.name].value
        if flag is CONFIG and path:
            given.config_file = config_file.ConfigFile(path, value)
            continue
        if flag.required and value is None:
            _raise_missing(name, f"--{flag.name}", f"--{flag.name}={flag.placeholder}")
        elif flag.type is epath.Path and value is not None:
            value = absolute(value, flag.name)
        setattr(given, flag.name, value)
    if command.argument_placeholder and not arguments:
        _raise_missing(name, command.argument_placeholder, command.argument_placeholder)
    return given


def _check_fields(name: str, argv: list[str]) -> None:
    """Raises `UserError` if an argument sets a field that the config of the command does not have."""
    fields = COMMANDS[name].field_defaults
    for argument in argv:
        # --config.FIELD, --config.FIELD=VALUE or --noconfig.FIELD
        match = re.fullmatch(r"--?(?:no)?config\.([^=]*)(?:=.*)?", argument, re.DOTALL)
        if match and match[1] not in fields:
            hint = _owner_hint(match[1], lambda command: command.field_defaults) or did_you_mean(match[1], fields)
            raise UserError(f"config.{match[1]}", "no such field", "a known one", hint)


def _raise_unknown_flag(name: str, flag: str) -> NoReturn:
    """Raises the error for an unknown flag: of another command, misspelled, or a field of a missing --config."""
    command, is_field = COMMANDS[name], bool(re.match(r"(no)?config\.", flag))
    if is_field and command.config:
        _raise_missing(name, "--config", "--config=FILE")
    hint = _owner_hint("config" if is_field else flag, _spellings)
    known = [known_flag.name for known_flag in command.flags]
    if not hint and name == "fill" and not spelling_hint(flag, known):
        hint = "put -- before a text that begins with -"
    raise UserError("command line", f"--{flag}", f"a flag of {name}", hint or did_you_mean(flag, known))


def _owner_hint(name: str, known: Callable[[Command], Iterable[str]]) -> str:
    """Returns a hint that lists the commands for which `known` contains the name; empty if there are none."""
    owners = [owner for owner, command in COMMANDS.items() if name in known(command)]
    return f"it belongs to {', '.join(owners)}" if owners else ""


def _spellings(command: Command) -> Iterator[str]:
    """Yields the names of a command's flags, their aliases, and each name after `no`, which negates a bool flag."""
    for flag in command.flags:
        yield from (flag.name, flag.alias or flag.name, f"no{flag.name}")


def _raise_missing(name: str, what: str, wanted: str) -> NoReturn:
    """Raises the error for a flag or argument, `what`, that a command requires; `wanted` shows how to write it."""
    raise UserError("command line", f"no {what}", wanted, f"see python -m symbert_jax {name} --help")


def _before_dashes(argv: list[str]) -> list[str]:
    """Returns the arguments before `--`: a text after it may look like a flag."""
    return argv[: argv.index("--")] if "--" in argv else argv
