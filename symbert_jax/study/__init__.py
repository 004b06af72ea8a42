"""A study: arms that differ in a few fields of a config, trained with several seeds and compared.

Reading order: `plan`, the runs of a study and their workdirs; `command`, which trains the missing ones; `parallel`,
which trains several side by side; `results`, what the runs measured, and the statistics of it; `report` and `plots`.
"""
