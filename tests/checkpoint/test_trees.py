"""Arrays of other names or shapes are refused."""

import jax
import pytest

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, MeshConfig
from symbert_jax.errors import UserError
from symbert_jax.sharding import make_mesh
from symbert_jax.train.start import restore
from tests.conftest import configure


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configure(), "found no layers.attention.key.bias, wanted layers.attention.key.bias of shape"),
        (configure(model={"attention": "pairwise", "dim": 64}), r"found .*bias of shape \[32\], wanted .*\[64\]"),
        (configure(model={"attention": "pairwise", "layers": 3}), r"of shape \[2, 32\], wanted .*\[3, 32\]"),
    ],
)
def test_restore_refuses_another_model(saved, config: Config, message: str) -> None:
    """`saved` holds a pairwise model of 2 layers of width 32."""
    workdir, _ = saved
    with jax.set_mesh(make_mesh(MeshConfig())), pytest.raises(UserError, match=message):
        restore(config, Checkpoints(workdir))
