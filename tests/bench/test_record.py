"""Records of benches: their lines, versions and commits."""

import json

from bench import record


def test_record_prints_and_appends_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.jsonl")
    record.record("one", ratio=1.5)
    record.record("two", ratio=2.5)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    first, second = map(json.loads, lines)
    assert (first["bench"], first["ratio"], second["bench"]) == ("one", 1.5, "two")
    assert first["machine"]["cores"] >= 1 and "jax" in first["versions"]


def test_versions_leave_out_packages_that_are_not_installed():
    assert record.versions(["no-such-package"]) == {}


def test_commit_outside_of_a_repository_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.jsonl")
    assert record.commit() == "unknown"
