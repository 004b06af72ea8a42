"""The directive `commands`: every command with its flags and an example, as `--help` describes it."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from symbert_jax.cli.commands import COMMANDS
from symbert_jax.cli.flags import Flag
from symbert_jax.cli.help import required
from symbert_jax.config import Config, FinetuneConfig, StudyConfig

from . import markdown

HEADINGS = {Config: "fields-of-pretrain", FinetuneConfig: "fields-of-finetune", StudyConfig: "fields-of-study"}


class Commands(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("".join(map(describe, COMMANDS)), allow_section_headings=True)


def describe(name: str) -> str:
    """Returns the section of a command in Markdown."""
    command = COMMANDS[name]
    parts = [
        f"## {name}",
        f"```sh\npython -m symbert_jax {name} [FLAGS] {required(command)}\n```",
        markdown.escape(f"`{name}` {command.summary}."),
        *(_flag(name, flag) for flag in command.flags),
    ]
    if command.config:
        heading = HEADINGS[command.config]
        parts.append(f"`--config.FIELD=VALUE` sets [a field of the config](configuration.md#{heading}).")
    example = re.sub(r"\n +", "\n  ", command.example)  # --help indents its lines by 6
    parts.append(f"For example\n\n```sh\npython -m symbert_jax {name} {example}\n```")
    return "\n\n".join(parts) + "\n\n"


def _flag(command: str, flag: Flag) -> str:
    """Returns the entry of a flag."""
    head = f"--{flag.name}={flag.placeholder}" if flag.placeholder else f"--{flag.name}"
    notes = "required" if flag.required else f"by default `{flag.default}`" if flag.default else ""
    text = "; ".join(filter(None, (markdown.escape(flag.help), notes)))
    return f"`{head}`\n: {text}."


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
