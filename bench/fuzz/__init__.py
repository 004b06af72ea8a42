"""Random changes of everything that a user gives: files, folders, flags, and texts.

Each attempt changes a copy of a valid input and runs a command, or a function that a command calls, on the copy. It
ends in success, in an error that the command line reports in one line, or in a fault: another exception, a printed
traceback, a crash, more than 20 s, or more than 4 GiB. The test suite makes a few attempts of each kind, always the
same ones.

Read the modules in this order: `kinds`, the kinds of input, and `mutations`, the changes; `attempts`, one attempt, with
`isolation` and `stand_ins`; `worker`, the process that makes attempts; `__main__`, a campaign of many attempts.
"""
