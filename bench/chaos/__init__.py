"""Kills of real runs: a killed run must end with the files of an uninterrupted run.

Starts a command, kills it at a random time, starts the same command again until it is done, and compares its files
with those of an uninterrupted run. SIGKILL and SIGTERM go to one process; SIGINT and SIGHUP to its process group, as a
terminal sends them.

Read the modules in this order: `commands`, which commands are killed and which files they must write, with
`comparisons`; `starts`, the processes of one start of a command; `runs`, several starts until a command is done;
`references`, uninterrupted runs, with their `inputs`; `stages`, runs until a number of kills is reached; `disks`, file
systems that fail; `report`, tables of kills and findings; `__main__`, all stages.
"""
