"""JSON objects are read from files of any size, whole or in parts; each mistake is one error."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.data.sources import decoding, json_lines
from symbert_jax.errors import UserError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"content": "b", "id": 1}', 'line 2: an object with "content", "id", wanted .* string "text"'),
        ('{"text": null}', 'line 1: "text" is null, wanted an object with the string "text"'),
        ('\n"a"\n', 'line 2: "a", wanted an object'),
        ('{"text": "a"}\n{}', "line 2: an object with no field, wanted"),
        ("[" * 100_000, "item 1: maximum recursion depth"),
        ('{"a":' * 100_000, "line 1: maximum recursion depth"),
        ('{"a": ' + "1" * 5000 + "}", "line 1: Exceeds the limit"),
        ('[{"text": "a"}, {"text": "b"]', "item 2: Expecting ',' delimiter, wanted an array"),
        ('[{"text": "a"}', "item 2: Expecting value, wanted an array"),
        ('[{"text": "a"}] [{"text": "b"}]', "text after a JSON array"),
        ('[{"text": "a"}]' + " " * (3 << 20) + "x", "text after a JSON array"),
        ('{"text": "' + "a" * 5000, "line 1: more than 2,000 characters"),
        ('[{"text": "' + "a" * 5000, "item 1: more than 2,000 characters"),
    ],
)
def test_json_without_text_is_one_error(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "2,000" in message:  # a limit that a small file exceeds
        monkeypatch.setattr(json_lines, "_MAX_OBJECT", 2000)
        monkeypatch.setattr(decoding, "CHUNK", 1000)
    (tmp_path / "a").write_text(content)
    with pytest.raises(UserError, match=f"^data.sources: found {tmp_path}/a[,:] {message}"):
        list(json_lines.read(tmp_path / "a"))


OBJECTS = st.lists(st.fixed_dictionaries({"text": st.text(max_size=30), "more": st.none() | st.lists(st.integers())}))


@settings(max_examples=60, deadline=None)
@given(objects=OBJECTS, chunk=st.integers(4, 40), indent=st.none() | st.integers(0, 2), is_array=st.booleans())
def test_json_is_read_from_chunks_of_any_size(objects: list, chunk: int, indent: int | None, is_array: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK", chunk)
        path = Path(folder) / "a"
        path.write_text(json.dumps(objects, indent=indent) if is_array else "\n".join(map(json.dumps, objects)))
        assert list(json_lines.read(path)) == [value["text"] for value in objects]
