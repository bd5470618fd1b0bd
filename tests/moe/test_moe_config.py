import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.moe.config import Dispatch, Granularity, MoeConfig

VALUES = {
  "granularity": "task",
  "num_experts": 5,
  "num_selected": 2,
  "expert_mlp_dim": 7,
  "dispatch": "auto",
  "capacity_factor": 2.0,
  "group_size": 64,
  "balance_loss_weight": 0.01,
  "z_loss_weight": 0.001,
}


def test_names_become_members():
  config = MoeConfig(**VALUES)
  assert config.granularity is Granularity.TASK
  assert config.dispatch is Dispatch.AUTO


def test_which_granularities_the_task_alone_decides():
  assert {g.value for g in Granularity if g.by_task} == {"task", "static"}


@pytest.mark.parametrize("num_selected", [1, 5])
def test_numbers_of_experts_that_can_be_selected(num_selected):
  MoeConfig(**{**VALUES, "num_selected": num_selected})


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"granularity": "tokens"},
      "unknown granularity 'tokens': accepted are token, sentence, task,"
      " static, word, task_then_token (did you mean 'token'?). Set"
      " MoeConfig.granularity.",
    ),
    (
      {"dispatch": "dropples"},
      "unknown dispatch 'dropples': accepted are auto, capacity, dropless,"
      " expert_fetch (did you mean 'dropless'?)."
      " Set MoeConfig.dispatch.",
    ),
    (
      {"expert_mlp_dim": 0},
      "expert_mlp_dim=0 is not at least 1. Set MoeConfig.expert_mlp_dim.",
    ),
    (
      {"group_size": 0},
      "group_size=0 is not at least 1. Set MoeConfig.group_size.",
    ),
    (
      {"balance_loss_weight": -0.5},
      "balance_loss_weight=-0.5 is not at least 0. Set"
      " MoeConfig.balance_loss_weight.",
    ),
    (
      {"z_loss_weight": -0.5},
      "z_loss_weight=-0.5 is not at least 0. Set MoeConfig.z_loss_weight.",
    ),
    (
      {"num_selected": 6},
      "num_selected=6 is outside 1..5, the number of experts. Set"
      " MoeConfig.num_selected.",
    ),
    (
      {"num_selected": 0},
      "num_selected=0 is outside 1..5, the number of experts. Set"
      " MoeConfig.num_selected.",
    ),
    (
      {"granularity": "token", "dispatch": "expert_fetch"},
      "dispatch 'expert_fetch' cannot serve granularity 'token': it fetches"
      " experts for whole rows. Set MoeConfig.dispatch to 'dropless' or"
      " 'auto'.",
    ),
    (
      {"capacity_factor": 0.0},
      "capacity_factor=0.0 is not above 0. Set MoeConfig.capacity_factor, or"
      " None to never drop a token.",
    ),
  ],
)
def test_mistakes(values, message):
  with pytest.raises(TaskMoeError) as error:
    MoeConfig(**{**VALUES, **values})
  assert str(error.value) == message
