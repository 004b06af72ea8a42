"""Kinds of input. Each writes a valid input, changes a copy of it, and runs a command or a part of one on the copy.

Read first `inputs`, the valid inputs that several kinds share, then in any order `command_line`, `config_files`,
`sources`, `glue`, `tokenizers`, `workdirs`.
"""

import functools
import re
import tempfile
from pathlib import Path

from bench.fuzz.attempts import Kind
from bench.fuzz.kinds import command_line, config_files, glue, sources, tokenizers, workdirs

# The keys are the names of the classes in words: `GlueFiles` is `glue-files`.
KINDS: dict[str, type[Kind]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind
    for kind in (
        *(command_line.Fields, command_line.FinetuneFields, config_files.ConfigFiles, command_line.Arguments),
        *(command_line.Topologies, command_line.FillTexts),
        *(sources.JsonLines, sources.TextFiles, sources.Parquet),
        *(sources.Books, sources.ArrayRecords, sources.TfRecords),
        *(tokenizers.Vocabularies, glue.GlueFiles, glue.GlueDatasets),
        *(tokenizers.HuggingFaceFolders, tokenizers.Safetensors),
        *(workdirs.Workdirs, workdirs.ReferenceCurves, workdirs.Trials, workdirs.CheckpointFiles),
        *(workdirs.CorpusFiles, command_line.Bytes),
    )
}


@functools.cache
def get_kind(name: str) -> Kind:
    """Returns the kind of this name; its valid input is written once per process."""
    return KINDS[name](Path(tempfile.mkdtemp(prefix="fuzz_valid_")))
