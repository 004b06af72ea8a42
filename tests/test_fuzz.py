"""Random changes of valid inputs end in success or in a user error: a short `bench.fuzz` with fixed seeds."""

import os
import tempfile
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from bench.fuzz.attempts import attempt
from bench.fuzz.kinds import KINDS, get_kind
from bench.fuzz.kinds.inputs import prepared_corpus


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes `tempfile` write below one folder in the tests of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", os.fspath(tmp_path_factory.mktemp("fuzz")))
        yield
    for cached in (get_kind, prepared_corpus):  # pytest may delete their folders
        cached.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_fuzzed_input_ends_in_success_or_a_user_error(name: str) -> None:
    outcome = attempt(get_kind(name), Random(0), changed=False)
    assert outcome.result == "success", outcome

    @settings(
        max_examples=KINDS[name].suite_attempts,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def change(random: Random) -> None:
        outcome = attempt(get_kind(name), random)
        note("\n".join(outcome.history))
        assert outcome.result in ("success", "user error"), outcome.fault

    change()
