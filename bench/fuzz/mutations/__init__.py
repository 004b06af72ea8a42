"""Random changes of files and of texts. Each is a function of its `random.Random` and returns a description.

Read the modules in this order: `content`, changes of bytes, lines and JSON; `containers`, changes of files of tensors
or records; `files`, changes of any file, by its name, and of a folder; `texts`, values that a user may type.
"""
