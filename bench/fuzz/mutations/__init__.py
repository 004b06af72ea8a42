"""Random changes of files, and random texts. The functions draw from the `random.Random` that they get.

Read the modules in this order: `content`, changes of bytes, lines and JSON; `containers`, changes of files of tensors
or records; `files`, changes of any file, by its name, and of a folder; `texts`, values that a user may type. Functions
that change something also return a description of the change.
"""
