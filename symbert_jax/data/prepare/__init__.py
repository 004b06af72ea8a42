"""The `prepare` command: documents become rows of token ids, and the rows depend on the set of documents alone.

Reading order: `documents`, the key of a document, from which its place in the corpus follows; `encoding`, its token
ids, with `word_ids`, those of its words; `statistics`, the counts of a corpus; `buckets`, a part of the documents that
fits in memory; `packing`, which cuts the token ids of all documents into rows, and `best_fit`, which packs whole
documents; `row_files`, which writes the rows; `local`, the engine that does this on the cores of one machine, with
`local_tasks`, `workers`, `runs` and `bucket_parts`; `written`, its result; and `command`, which checks, calls and
reports.
"""
