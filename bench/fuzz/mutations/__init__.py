"""Random changes of files and of texts: each repeats with its `random.Random`, and returns a description of itself.

To read in this order: `content`, changes of bytes, lines and JSON; `containers`, of files of tensors or records;
`files`, of whichever file, by its name, and of a folder; `texts`, what a user may type.
"""
