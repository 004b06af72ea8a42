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

# The architecture of ModernBERT with fields of the tiny config: three layers of a period, and one that follows.
MODERN = {
    "layers": 4,
    "norm": "pre",
    "norm_eps": 1e-5,
    "positions": "rope",
    "rope_theta": 160.0,
    "rope_theta_local": 10.0,
    "mlp": "geglu",
    "bias": False,
    "window": 6,
}
