"""Configs of MoE layers, by what a test changes."""

import pytest

from taskmoe_jax.moe.config import MoeConfig


@pytest.fixture(scope="session")
def moe_config():
  """Makes a config that drops nothing, of seven experts unless said.

  Enums may be given by their values, as in a gin file.
  """

  def make(**changes):
    values = {
      "granularity": "token",
      "num_experts": 7,
      "num_selected": 2,
      "expert_mlp_dim": 4,
      "dispatch": "capacity",
      "capacity_factor": None,
      "group_size": 64,
      "balance_loss_weight": 0.0,
      "z_loss_weight": 0.0,
      "word_table": "hashed",
      "num_candidates": 4,
    }
    return MoeConfig.from_dict({**values, **changes})

  return make
