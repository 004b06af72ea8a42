"""Models in and out of this package: folders of Hugging Face's BERT and of the paper's code (`plpi/bert`).

Reading order: `architecture` and `tensors` convert the config and the weights; `folder` reads and writes all files of a
model; `fold` converts attention to the forms of other programs and `card` describes a model, for `export`; `warm_start`
converts a standard model to another attention, for `import_`.
"""
