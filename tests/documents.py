"""Makes bash scripts of the documents: README, docs, docstrings of configs, benches and `--help`, and Make targets.

What a reader would type keeps its line, so that bash names the line of the document in errors. What is no whole command
gets a name in front, which a rule of `tests/documented_commands.py` knows:

  flags --a=b …              flags without their command
  synopsis prepare …         a line of `--help`
  python - DOCUMENT:LINE     a block of Python, which comes on stdin
  output                     quoted output without its command, which comes on stdin
  … | expect_output          a command of a console, with the output that the document shows as file 9
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPES = ("demo", "bench")  # targets of the Makefile that are documents too

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_SYNOPSIS = re.compile(r"  (\w+(?: +(?:[-[]|TEXT|WORKDIR)\S*| \.\.\.)*)(?:  .*)?")
_STRAY = re.compile(r"python -m|pip install|(?<!\w)--\w")


def scripts() -> dict[str, str]:
    """Returns the bash script of every document that holds commands, by its path from the root.

    Raises:
      AssertionError: a document holds a command in a place where no reader of commands looks.
    """
    found = {f"make {target}": recipe(target) for target in RECIPES}
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        found[str(path.relative_to(ROOT))] = markdown(path.read_text(), str(path.relative_to(ROOT)))
    modules = [path for folder in ("configs", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in (*modules, ROOT / "symbert_jax" / "__main__.py"):
        name = str(path.relative_to(ROOT))
        found[name] = docstring(path.read_text(), name)
    return {name: script for name, script in found.items() if script.strip()}


def markdown(text: str, name: str) -> str:
    """Returns the script of a page: blocks of shell, Python and consoles, and the commands among the code spans.

    Python and the output of a command go to their command as its input, or as file 9 of `expect_output`.
    """
    script = [""] * (text.count("\n") + 1)
    for block in _BLOCK.finditer(text):
        first, body = text.count("\n", 0, block.start()), block[2].splitlines()
        last = first + len(body) + 1
        if block[1] == "sh":
            script[first + 1 : last] = body
        elif block[1] == "python":
            script[first : last + 1] = [f"python - {name}:{first + 1} <<'END'", *body, "END"]
        elif body[0].startswith("$ "):
            end = next(i for i, line in enumerate(body) if not line.endswith("\\"))
            body[0], body[end] = body[0].removeprefix("$ "), f"{body[end]} 2>&1 | expect_output 9<<'END'"
            script[first + 1 : last + 1] = [*body, "END"]
        else:
            script[first : last + 1] = ["output <<'END'", *body, "END"]
    prose = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    return _finish(prose, script, name)


def docstring(text: str, name: str) -> str:
    """Returns the script of a module: of its docstring the lines indented by four, those of a synopsis, indented by
    two, and the commands among the code spans; of a config also the first line."""
    last = ast.parse(text).body[0].end_lineno
    script, prose = [], []
    command = name.startswith("configs/")  # whether a command goes on
    for line in text.replace('"""', "").splitlines()[:last]:
        synopsis = _SYNOPSIS.fullmatch(line)
        begins = re.match(r" {4}\S", line)
        prose.append("" if command or begins or synopsis else line)
        if synopsis:
            line = f"synopsis {re.sub(r'[][]| [.]{3}', '', synopsis[1])}"
        elif not command:
            line = _flags(line) if begins else ""
        script.append(line)
        command = line.endswith("\\")
    return _finish("\n".join(prose), script, name)


def recipe(target: str) -> str:
    """Returns the script of a target of the Makefile, as if all that it needs were installed."""
    installed = [f"--old-file={stamp}.stamp" for stamp in (".venv/run", ".venv/dev", ".venv-peers/run")]
    command = ["make", "--dry-run", "--no-print-directory", *installed, target]
    return subprocess.check_output(command, cwd=ROOT, text=True)


def _flags(command: str) -> str:
    """Puts `flags` before flags alone: bash takes a name with a slash for a file."""
    return re.sub(r"^ *(?=--)", "flags ", command)


def _finish(prose: str, script: list[str], name: str) -> str:
    """Adds the commands among the code spans: those of several words, and flags."""
    for span in _SPAN.finditer(prose):
        if re.search(r"\s|^--?\w", span[1]):
            number = prose.count("\n", 0, span.start())
            script[number] = "; ".join(filter(None, [script[number], _flags(" ".join(span[1].split()))]))
    prose = _SPAN.sub(lambda span: "\n" * span[0].count("\n"), prose)
    comments = [line.partition(" # ")[2] for line in script]
    for where, lines in (("the prose", prose.splitlines()), ("a comment", comments)):
        stray = [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if _STRAY.search(line)]
        assert not stray, f"a command in {where}, where nothing runs it:\n" + "\n".join(stray)
    return "\n".join(script).replace(" && ", "; ")  # bash does not trap what fails before an &&
