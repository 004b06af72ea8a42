"""Fine-tunes a pretrained encoder on the tasks of GLUE, scores the trials, and reports the results.

A trial fine-tunes the encoder of one checkpoint on one task, with one batch size, learning rate, weight decay, number
of epochs and seed. A finished trial is never repeated, so the same command continues a run that was killed.

Read the modules in this order: `tasks`, the table of GLUE's tasks; `examples`, which reads their files; `batches`,
which tokenizes examples and batches them by length; `protocols`, the published ways to fine-tune; `task_data`, the
tokenized splits of a task; `scores`, GLUE's metrics and means; `trials`, the results of trials and their file; `steps`,
the compiled steps; `training`, which trains a group of trials; `saved`, a model on disk; `report`, tables and plots;
`workdir`, the files of a run; `finetune`, the order of events of the command.
"""
