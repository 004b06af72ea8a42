"""The texts of help name every command, flag and field of the configs."""

import pytest

from symbert_jax import config as configs
from symbert_jax.cli import help
from symbert_jax.cli.commands import COMMANDS
from symbert_jax.config.limits import Choice


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_flags_and_fields_and_ends_with_an_example(name: str) -> None:
    command, text = COMMANDS[name], help.describe(name)
    words = " ".join(text.split())
    for flag in command.flags:
        assert f"  --{flag.name}" in text and flag.help in words, flag
    for field in configs.walk(command.config()) if command.config else ():
        assert f"  --config.{field.name}=" in text and field.comment and field.comment in words, field
        assert all(f"{field.comment}; {limit}" in words for limit in field.limits if isinstance(limit, Choice)), field
    assert ("--config." in text) == bool(command.config)
    assert text.endswith(f"example\n    python -m symbert_jax {name} {command.example}\n")
    assert max(map(len, text.splitlines())) <= 120


def test_overview_lists_every_command_with_what_it_requires() -> None:
    text = help.overview()
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert (
        "  compile   --config=FILE --topology=SLICE  " in text and "  fill      --checkpoint=WORKDIR TEXT ...  " in text
    )
    assert max(map(len, text.splitlines())) <= 120
