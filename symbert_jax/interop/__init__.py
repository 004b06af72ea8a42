"""Exports models to, and imports them from, the formats of Hugging Face's BERT and of the paper's code (`plpi/bert`).

Reading order: `architecture` and `tensors` convert the config and the weights; `folder` reads them and writes all files
of a model; for `export`, `fold` converts attention to the forms of other programs, and `card` describes the model; for
`import_`, `warm_start` converts a standard model to another attention.
"""
