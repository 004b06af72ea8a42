"""Exports models to, and imports them from, the formats of Hugging Face's BERT and ModernBERT and of the paper's code.

Reading order: `architecture`, with `modernbert` and `fields`, converts the config; `tensors`, with the names in
`layouts`, converts the weights; `folder` reads them and writes all files of a model; for `export`, `fold` converts
attention to the forms of other programs, and `card` describes the model; for `import_`, `warm_start` converts a
standard model to another attention.
"""
