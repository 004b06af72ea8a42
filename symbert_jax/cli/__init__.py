"""The command line.

Reading order: `flags`, the flags that commands share; `commands`, the commands with their flags; `parsing` converts
arguments to values, with `config_file` for `--config`; `help`, the texts of `--help`; `process` sets up the process of
a command and turns exceptions into exit codes; `xla_presets`, compiler flags by chip.
"""
