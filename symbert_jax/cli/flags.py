"""The flags that commands share. The fields of the config, which are flags too, are in `symbert_jax.config.schema`."""

from typing import Any, NamedTuple

from absl import flags
from etils import epath


class Flag(NamedTuple):
    name: str
    placeholder: str  # how help writes the value; empty if the flag takes none
    help: str
    # str | int | bool | epath.Path (made absolute) | list (of str, one for each occurrence of the flag)
    type: type = str
    default: Any = None
    least: int | None = None  # the smallest value, if the flag is an int
    required: bool = False
    alias: str | None = None


CONFIG = Flag("config", "FILE", "a Python file with get_config(), or the name of one in configs/", required=True)
BEAM = Flag(
    "beam",
    "OPTIONS",
    "options of Apache Beam, in one word, to prepare the corpus on a cluster: '--runner=DataflowRunner --project=…'",
)
WORKDIR = Flag("workdir", "DIR", "the folder that the run writes and resumes from", epath.Path, required=True)
CHECKPOINT = Flag(
    "checkpoint",
    "WORKDIR",
    "the workdir of a pretrained model",
    epath.Path,
    required=True,
)
STEP = Flag("step", "N", "the step of the checkpoint; by default the latest", int, least=0)
WEIGHTS = Flag(
    "weights",
    "ema|raw",
    "the moving average of the parameters, or those of the last step; by default the average if there is one",
    default="",
)
OUT = Flag("out", "DIR", "the folder to write", epath.Path, required=True)
XLA_PRESET = Flag("xla_preset", "CHIP", "sets compiler flags for a chip: v4, v5e, v5p, v6e or h100")
# On Cloud TPU, GKE and SLURM the processes of a run find each other. Elsewhere each process needs the first three.
PROCESSES = (
    Flag("coordinator", "HOST:PORT", "the address at which process 0 listens, if no launcher sets it"),
    Flag("process", "I", "the index of this process, from 0", int, least=0),
    Flag("processes", "N", "the number of processes", int, least=1),
    Flag(
        "join_timeout",
        "SECONDS",
        "time for all processes to join; in doctor at most 25",
        int,
        300,
        least=1,
    ),
    Flag("lost_after", "SECONDS", "time without a heartbeat after which a process counts as lost", int, 100, least=1),
)


def define(flag: Flag, values: flags.FlagValues) -> None:
    """Defines the flag in `values`, for absl to parse."""
    if flag.type is int:
        flags.DEFINE_integer(flag.name, flag.default, flag.help, lower_bound=flag.least, flag_values=values)
    elif flag.type is bool:
        flags.DEFINE_bool(flag.name, flag.default, flag.help, values)
    elif flag.type is list:
        flags.DEFINE_multi_string(flag.name, flag.default, flag.help, values)
    else:
        flags.DEFINE_string(flag.name, flag.default, flag.help, values)
    if flag.alias:
        flags.DEFINE_alias(flag.alias, flag.name, values)
