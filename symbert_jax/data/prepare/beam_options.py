"""The options of Apache Beam that a user gives to `prepare`."""

import contextlib
import io
import shlex

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from symbert_jax.errors import UserError, spelling_hint

# They keep all data in the memory of one process, or first try to download another runner.
_REFUSED = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner")


def parse_options(text: str) -> PipelineOptions:
    """Returns the options in a text such as `--runner=FlinkRunner --flink_master=HOST:8081`.

    Raises:
      UserError: the text cannot be split as a shell would split it, an option or the runner is unknown, an option has a
        wrong value, or the runner cannot be imported.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError("--beam", f"{text!r}: {error}", "options in the syntax of a shell") from None
    if other := [word for word in words if not word.startswith("--")]:
        raise UserError("--beam", repr(other[0]), "options written as --name=value")
    options = PipelineOptions(words)
    runner = options.view_as(StandardOptions).runner
    if not runner:
        raise UserError("--beam", repr(text), "--runner=NAME among the options", "such as --runner=DataflowRunner")
    if runner.lower() in _REFUSED:
        hint = "name FnApiRunner, or leave out --beam: on one machine, prepare is faster without it"
        raise UserError("--beam", f"--runner={runner}", "a runner for large data", hint)
    try:
        create_runner(runner)  # imports its module, which may define further options
    except (ValueError, AttributeError) as error:
        raise UserError("--beam", f"--runner={runner}: {error}", "a runner of Apache Beam") from None
    except ImportError as error:
        hint = 'pip install "apache-beam[gcp]"' if "dataflow" in runner.lower() else ""
        raise UserError("--beam", f"--runner={runner}: {error}", "a runner that is installed", hint) from None
    known = PipelineOptions([]).get_all_options()
    if unknown := sorted(_check_values(options).keys() - known.keys()):
        raise UserError("--beam", f"--{unknown[0]}", "an option of Apache Beam", spelling_hint(unknown[0], known))
    return options


def _check_values(options: PipelineOptions) -> dict[str, object]:
    """Returns all options, also unknown ones; raises `UserError` if one has a wrong value."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):  # argparse prints the usage of a hundred options
            return options.get_all_options(retain_unknown_options=True)
    except SystemExit:
        found = printed.getvalue().rstrip().rpartition("error: ")[2]
        raise UserError("--beam", found, "options of Apache Beam") from None
