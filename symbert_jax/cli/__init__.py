"""The command line.

To read in this order: `flags`, the flags that commands share; `commands`, the commands with their flags; `parsing`,
from arguments to values; `config_file`, the part of it that is about `--config`; `help`, the texts of `--help`;
`process`, the process around a command: streams, limits, exit codes; `xla_presets`, compiler flags by chip.
"""
