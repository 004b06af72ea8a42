import json

from bench import record


def test_a_record_is_one_line_printed_and_appended_with_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.jsonl")
    record.record("one", ratio=1.5)
    record.record("two", ratio=2.5)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    first, second = map(json.loads, lines)
    assert (first["bench"], first["ratio"], second["bench"]) == ("one", 1.5, "two")
    assert first["machine"]["cores"] >= 1 and "jax" in first["versions"]


def test_a_package_that_is_not_installed_has_no_version():
    assert record.versions(["no-such-package"]) == {}


def test_outside_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.jsonl")
    assert record.commit() == "unknown"
