"""Makes bash scripts from the documents: README, docs, docstrings of configs and benches, help texts, Make targets.

A command keeps its line number, so that bash names the line of the document in errors. Text that is not a whole command
gets a command name in front, for which `tests/command_rules.py` has rules:

  flags --a=b …              flags without their command
  python - DOCUMENT:LINE     a block of Python, which is passed on stdin
  output                     quoted output without its command, which is passed on stdin
  … | expect_output          a command in a console; the output that the document shows is passed as file 9
"""

import ast
import re
import subprocess
from pathlib import Path

from symbert_jax.cli import help
from symbert_jax.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
RECIPES = ("demo", "demo-bert", "bench")  # targets of the Makefile, whose commands are checked like those of documents
INSTALLED = (".venv/run.stamp", ".venv/dev.stamp", ".venv/encoder", ".venv-peers/run.stamp")  # targets of the Makefile

_BLOCK = re.compile(r"^```(\w*|\{[^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BASH_CELL = "%%bash"  # the first line of a notebook's cell of shell commands, after its options
_SPAN = re.compile(r"`([^`]+)`")  # a code span
# what looks like a command or a flag, such as `python -m` or `--seed`
_STRAY = re.compile(r"python -m|pip install|(?<!\w)--\w")


def scripts() -> dict[str, str]:
    """Returns the bash script of each document that contains commands, by its path from the root.

    Raises:
      AssertionError: a document contains a command that its script does not.
    """
    found = {f"make {target}": recipe(target) for target in RECIPES}
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        found[str(path.relative_to(ROOT))] = markdown(path.read_text(), str(path.relative_to(ROOT)))
    modules = [path for folder in ("configs", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in modules:
        name = str(path.relative_to(ROOT))
        found[name] = docstring(path.read_text(), name)
    for topic, text in {"": help.overview(), **{name: help.describe(name) for name in COMMANDS}}.items():
        found[f"help {topic}"] = help_text(text)
    return {name: script for name, script in found.items() if script.strip()}


def markdown(text: str, name: str) -> str:
    """Returns the script of a page: blocks of shell, Python and consoles, and commands among its code spans.

    Of a notebook it has the cells of shell commands. `make docs` executes all cells.
    """
    script = [""] * (text.count("\n") + 1)
    for block in _BLOCK.finditer(text):
        first, body = text.count("\n", 0, block.start()), block[2].splitlines()
        last = first + len(body) + 1
        if _BASH_CELL in body:
            start = body.index(_BASH_CELL) + 1
            script[first + 1 + start : last] = body[start:]
        elif block[1].startswith("{"):
            continue  # a directive of Sphinx, or a cell of Python
        elif block[1] == "sh":
            script[first + 1 : last] = body
        elif block[1] == "python":
            script[first : last + 1] = [f"python - {name}:{first + 1} <<'END'", *body, "END"]
        elif body[0].startswith("$ "):
            end = next(i for i, line in enumerate(body) if not line.endswith("\\"))
            body[0] = body[0].removeprefix("$ ")
            body[end] += " 2>&1 | expect_output 9<<'END'"
            script[first + 1 : last + 1] = [*body, "END"]
        else:
            script[first : last + 1] = ["output <<'END'", *body, "END"]
    prose = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    return _finish(prose, script, name)


def docstring(text: str, name: str) -> str:
    """Returns the script of a module: the lines of its docstring that are indented by four spaces, and the commands
    among its code spans. In a config, the first line is a command too."""
    lines = text.replace('"""', "").splitlines()[: ast.parse(text).body[0].end_lineno]
    script = _indented(lines, continues=name.startswith("configs/"))
    return _finish(
        "\n".join("" if command else line for line, command in zip(lines, script, strict=True)), script, name
    )


def help_text(text: str) -> str:
    """Returns the script of a help text: its lines that are indented by four spaces."""
    return "\n".join(_indented(text.splitlines()))


def recipe(target: str) -> str:
    """Returns the script of a target of the Makefile, as if all of its dependencies were installed."""
    installed = [f"--old-file={target}" for target in INSTALLED]
    command = ["make", "--dry-run", "--no-print-directory", *installed, target]
    return subprocess.check_output(command, cwd=ROOT, text=True)


def _indented(lines: list[str], continues: bool = False) -> list[str]:
    """Keeps lines that are indented by four spaces or continue a command, and empties the others.

    continues: whether the first line is a command, too.
    """
    script = []
    for line in lines:
        line = line if continues else _flags(line) if re.match(r" {4}\S", line) else ""
        script.append(line)
        continues = line.endswith("\\")
    return script


def _flags(command: str) -> str:
    """Puts `flags` before flags without a command, because bash takes a name with a slash for a file."""
    return re.sub(r"^ *(?=--)", "flags ", command)


def _finish(prose: str, script: list[str], name: str) -> str:
    """Adds the code spans of `prose` that are commands: those of several words, and flags. Returns the whole script.

    Raises:
      AssertionError: there is a command in the prose outside of code spans, or in a comment of the script.
    """
    for span in _SPAN.finditer(prose):
        if re.search(r"\s|^--?\w", span[1]):
            number = prose.count("\n", 0, span.start())
            script[number] = "; ".join(filter(None, [script[number], _flags(" ".join(span[1].split()))]))
    prose = _SPAN.sub(lambda span: "\n" * span[0].count("\n"), prose)
    comments = [line.partition(" # ")[2] for line in script]
    for where, lines in (("the prose", prose.splitlines()), ("a comment", comments)):
        stray = [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if _STRAY.search(line)]
        assert not stray, f"a command in {where}, where nothing runs it:\n" + "\n".join(stray)
    return "\n".join(script).replace(" && ", "; ")  # bash does not trap a failure before an &&
