"""The entry point of the command line: `python -m symbert_jax COMMAND`, or, once installed, `symbert COMMAND`."""

import sys
from typing import NoReturn

from symbert_jax.cli import help, parsing, process, xla_presets
from symbert_jax.cli.commands import COMMANDS


def main(argv: list[str]) -> int:
    """Runs one command, or prints help; returns the exit code, see `process.run_command`."""
    process.protect_streams()
    return process.run_command(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    topic = parsing.help_topic(argv)
    if topic is not None:  # empty: help in general
        print(help.describe(topic) if topic else help.overview(), end="")
        return
    name, arguments = parsing.split_command(argv)
    given = parsing.parse(name, arguments)
    process.check_limits()
    if preset := getattr(given, "xla_preset", None):
        print(xla_presets.apply(preset), flush=True)
    process.configure_libraries(str(getattr(given, "workdir", "")))
    COMMANDS[name].run(given)


def start() -> NoReturn:
    """Runs the command in `sys.argv`, and ends the process with its exit code."""
    process.restart_with_huge_pages(sys.argv[1:])
    code = main(sys.argv[1:])
    if distributed := sys.modules.get("symbert_jax.distributed"):  # only some commands import it
        distributed.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    start()
