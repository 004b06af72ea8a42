"""Turns text into masked batches.

Reading order: `sources`, documents from files and datasets; `vocabulary` and `tokenizer`, which give texts token ids;
`rows` and `manifest`, the corpus on disk; `prepare`, the command that makes a corpus; `corpus`, a prepared corpus that
a run opens; `masking`, which chooses the tokens to predict, with `whole_words` for whole words and spans; `stream`, the
batches of training and validation; and
`batches`, the training batches for a loop outside of this package.
"""
