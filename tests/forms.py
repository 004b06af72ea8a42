"""The forms of attention beside the three of the paper: the fields of `config.model`, by a name for the test."""

FORMS = {
    "uniform": {"attention": "uniform"},
    "shared_start": {"key_init": "query"},
    "identity_query": {"query": "identity"},
    "narrow_keys": {"key_dim": 4},
    "diagonal": {"attention": "pairwise", "pairwise_form": "diagonal"},
    "low_rank": {"attention": "pairwise", "pairwise_form": "low_rank", "pairwise_rank": 2},
    "narrow_pairwise": {"attention": "pairwise", "key_dim": 4},
}
