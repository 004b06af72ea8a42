"""Random changes of files, and random texts. The functions draw from the `random.Random` that they get.

Read the modules in this order: `content`, changes of bytes, lines and JSON; `containers`, changes of files of tensors
or records; `files`, changes of any file, in the format that its name suggests, and of a folder's files; `texts`, values
that a user may type. Functions that change something also return a description of the change.
"""
