"""Uninterrupted runs, and the commands whose killed runs are compared with them."""

import dataclasses
import functools
import time
from pathlib import Path

from bench.chaos.commands import Command, Finetune, Prepare, Pretrain, Reference
from bench.chaos.inputs import write_documents, write_glue
from bench.chaos.starts import ONE_PROCESS, Layout, Start


class References:
    """The uninterrupted runs below one folder. Each is made when a command first needs it.

    corpus: a corpus of configs/tiny.py; by default one is prepared.
    """

    def __init__(self, folder: Path, corpus: Path | None = None):
        self.folder = folder
        self._given_corpus = corpus
        self._made: dict[tuple[Command, Layout], Reference] = {}

    @functools.cached_property
    def documents(self) -> Path:
        """The source of `prepare`."""
        file = self.folder / "documents.jsonl"
        write_documents(file)
        return file

    @functools.cached_property
    def corpus(self) -> Path:
        """The corpus of `pretrain`."""
        return self._given_corpus or self.prepare_command("jsonl").reference.folder / "corpus"

    @functools.cached_property
    def glue(self) -> Path:
        """The tasks of `finetune`."""
        folder = self.folder / "glue"
        write_glue(folder, (self.corpus / "vocab.txt").read_text().split())
        return folder

    def prepare_command(self, source: str) -> Prepare:
        """Returns a `prepare` with its reference.

        source: `jsonl` or `python-docs`; for the latter, `prepare` starts processes that parse modules.
        """
        spec = f"jsonl:{self.documents}" if source == "jsonl" else "python-docs:stdlib"
        command = Prepare(f"prepare-{source}", source=spec)
        return dataclasses.replace(command, reference=self._reference(command))

    def pretrain_command(self, layout: Layout = ONE_PROCESS, name: str = "", **fields: object) -> Pretrain:
        """Returns a `pretrain` with its reference, which keeps every checkpoint.

        name: by default pretrain-N for N processes.
        fields: values for other fields of `Pretrain`.
        """
        command = Pretrain(name or f"pretrain-{layout.processes}", corpus=self.corpus, **fields)
        reference = self._reference(dataclasses.replace(command, keep="keep_every=10"), layout)
        return dataclasses.replace(command, reference=reference)

    def finetune_command(self) -> Finetune:
        """Returns a `finetune` with its reference; it starts from the model of the reference of `pretrain`."""
        checkpoint = self.pretrain_command().reference.folder / "run"
        command = Finetune("finetune", checkpoint=checkpoint, glue=self.glue)
        # fills the compilation cache, so that the times of the reference do not include compilations
        self._reference(dataclasses.replace(command, name="finetune-first"))
        return dataclasses.replace(command, reference=self._reference(command))

    def _reference(self, command: Command, layout: Layout = ONE_PROCESS) -> Reference:
        """Returns the reference of a command; runs the command if there is none. Raises `RuntimeError` if it fails."""
        if (command, layout) not in self._made:
            self._made[command, layout] = self._run(command, layout)
        return self._made[command, layout]

    def _run(self, command: Command, layout: Layout) -> Reference:
        folder = self.folder / f"{command.name}-whole"
        folder.mkdir()
        started = time.monotonic()
        with Start(command, folder, layout) as start:
            start.wait_for_first_step()
            first_step_ended = time.monotonic()
            if problems := start.end(kill=None):
                raise RuntimeError(f"{command.name} without a kill: {problems}; see {start.logs[0]}")
        return Reference(
            folder,
            seconds_to_first_step=first_step_ended - started,
            seconds_after_first_step=time.monotonic() - first_step_ended,
        )
