"""GLUE: fine-tunes a pretrained encoder on its tasks, scores the trials, and reports the results.

A trial is one task, batch size, learning rate and seed on the parameters of one checkpoint. A finished trial is never
repeated, so the same command continues a run that was killed.

To read in this order: `tasks`, the table of GLUE's tasks; `examples`, which reads their files; `batches`, which
tokenizes examples and batches them by length; `protocols`, those of the literature; `task_data`, all data of a task;
`scores`, GLUE's metrics and means; `trials`, with the file of their results; `steps`, the compiled steps; `training`,
which trains a group of trials; `saved`, a model on disk; `report`, tables and plots; `workdir`, the files of a run;
`finetune`, the order of events of the command.
"""
