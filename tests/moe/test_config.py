"""Settings of a router: what goes together, and what is refused."""

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.moe.config import (
  Dispatch,
  MoeConfig,
  Priority,
  Renormalize,
  SecondExpertPolicy,
)
from taskmoe_jax.moe.granularity import GRANULARITIES, TASK
from taskmoe_jax.moe.tables import WordTable


def test_names_become_members(moe_config):
  config = moe_config(
    second_expert_policy="random",
    second_expert_threshold=0.5,
    renormalize="after",
    priority="gate",
    capacity_factor=1.5,
    word_table="dealt",
  )
  assert config.second_expert_policy is SecondExpertPolicy.RANDOM
  assert config.renormalize is Renormalize.AFTER
  assert config.priority is Priority.GATE
  assert config.word_table is WordTable.DEALT


def test_all_is_off_unless_set(moe_config):
  config = moe_config()
  assert config.second_expert_policy is SecondExpertPolicy.ALL
  assert config.renormalize is Renormalize.BEFORE
  assert config.priority is Priority.ORDER
  rates = (
    config.jitter,
    config.balance_bias_rate,
    config.expert_mask_rate,
    config.gating_dropout_rate,
  )
  assert rates == (0, 0, 0, 0)


def test_what_granularities_have():
  def those(kind):
    return {name for name, g in GRANULARITIES.items() if getattr(g, kind)}

  assert those("by_token") == {"token", "word", "task_then_token"}
  assert those("has_gate") == {"token", "sentence", "task", "task_then_token"}
  assert those("has_task_vectors") == {"task", "task_then_token"}


@pytest.mark.parametrize(
  "values",
  [
    {"granularity": "task", "second_expert_policy": "sampling"},
    {"granularity": "task_then_token", "num_candidates": 2},
    {"granularity": "task_then_token", "num_candidates": 7},
    # Read by task_then_token only, whatever it is.
    {"num_candidates": 99},
    {"granularity": "word", "expert_mask_rate": 0.2},
    {"granularity": "static", "gating_dropout_rate": 0.3},
    {"balance_bias_rate": 0.001, "num_selected": 1},
    {"priority": "random", "capacity_factor": 1.0, "granularity": "word"},
    {"priority": "gate", "capacity_factor": 1.0, "dispatch": "capacity"},
    {"renormalize": "after", "pool_factor": 1.0, "dispatch": "auto"},
    {"renormalize": "after", "capacity_factor": 1.0, "granularity": "static"},
    {
      "renormalize": "after",
      "second_expert_policy": "random",
      "second_expert_threshold": 1.0,
    },
  ],
)
def test_what_goes_together(moe_config, values):
  config = moe_config(**values)
  found = {name: getattr(config, name) for name in values}
  if "granularity" in values:
    found["granularity"] = str(config.granularity)
  assert found == values


def refused(moe_config, values, message):
  with pytest.raises(TaskMoeError) as error:
    moe_config(**values)
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"second_expert_policy": "some"},
      "unknown second_expert_policy 'some': accepted are all, random, sampling."
      " Set MoeConfig.second_expert_policy.",
    ),
    (
      {"renormalize": "never"},
      "unknown renormalize 'never': accepted are before, after. Set"
      " MoeConfig.renormalize.",
    ),
    (
      {"priority": "gates"},
      "unknown priority 'gates': accepted are order, gate, random (did you mean"
      " 'gate'?). Set MoeConfig.priority.",
    ),
    (
      {"word_table": "hash"},
      "unknown word_table 'hash': accepted are dealt, hashed (did you mean"
      " 'hashed'?). Set MoeConfig.word_table.",
    ),
    (
      {"jitter": 1.0},
      "jitter=1.0 is outside [0, 1). Set MoeConfig.jitter.",
    ),
    (
      {"expert_mask_rate": -0.1},
      "expert_mask_rate=-0.1 is outside [0, 1). Set"
      " MoeConfig.expert_mask_rate.",
    ),
    (
      {"gating_dropout_rate": 2.0},
      "gating_dropout_rate=2.0 is outside [0, 1). Set"
      " MoeConfig.gating_dropout_rate.",
    ),
    (
      {"balance_bias_rate": -0.001},
      "balance_bias_rate=-0.001 is not at least 0. Set"
      " MoeConfig.balance_bias_rate.",
    ),
    (
      {"second_expert_threshold": 0.0},
      "second_expert_threshold=0.0 is outside (0, 1]. Set"
      " MoeConfig.second_expert_threshold.",
    ),
    (
      {"granularity": "word", "word_table": None},
      "granularity 'word' needs a word_table: accepted are dealt, hashed. Set"
      " MoeConfig.word_table.",
    ),
    *(
      (
        {"granularity": "task_then_token", "num_candidates": number},
        f"num_candidates={number} is outside 2..7, the numbers of experts"
        " selected and of all. Set MoeConfig.num_candidates.",
      )
      for number in (None, 1, 8)
    ),
  ],
)
def test_values_that_cannot_be(moe_config, values, message):
  refused(moe_config, values, message)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"second_expert_policy": "sampling", "num_selected": 1},
      "second_expert_policy='sampling' does nothing with num_selected=1. Set"
      " MoeConfig.second_expert_policy to 'all', or MoeConfig.num_selected.",
    ),
    (
      {"second_expert_policy": "random"},
      "second_expert_policy='random' needs a second_expert_threshold in (0, 1]."
      " Set MoeConfig.second_expert_threshold.",
    ),
    (
      {"second_expert_policy": "random", "granularity": "static"},
      "second_expert_policy='random' does nothing with granularity 'static',"
      " whose experts a fixed table names. Set MoeConfig.second_expert_policy"
      " to 'all'.",
    ),
    (
      {"granularity": "static", "has_padding": True},
      "has_padding=True does nothing with granularity 'static', whose experts"
      " a fixed table names. Set MoeConfig.has_padding to False.",
    ),
    (
      {"jitter": 0.01, "granularity": "word"},
      "jitter=0.01 does nothing with granularity 'word', whose experts a fixed"
      " table names. Set MoeConfig.jitter to 0.0.",
    ),
    (
      {"balance_bias_rate": 0.001, "granularity": "sentence"},
      "balance_bias_rate=0.001 balances tokens, and granularity is 'sentence'."
      " Set MoeConfig.balance_bias_rate to 0.0, or MoeConfig.granularity to"
      " 'token'.",
    ),
    (
      {"balance_bias_rate": 0.001, "second_expert_policy": "sampling"},
      "balance_bias_rate=0.001 steers choices that"
      " second_expert_policy='sampling' leaves to chance. Set"
      " MoeConfig.balance_bias_rate to 0.0, or MoeConfig.second_expert_policy"
      " to 'all'.",
    ),
    (
      {"priority": "gate", "capacity_factor": 1.0, "granularity": "word"},
      "priority='gate' does nothing with granularity 'word', whose experts a"
      " fixed table names. Set MoeConfig.priority to 'order' or 'random'.",
    ),
    *(
      (
        {"priority": "random", **values},
        "priority='random' does nothing where no expert is ever full: dispatch"
        f" is '{dispatch}', capacity_factor is {factor} and granularity"
        f" '{granularity}'. Set MoeConfig.priority to 'order', or"
        " MoeConfig.dispatch to 'capacity' and MoeConfig.capacity_factor to a"
        " number.",
      )
      for values, dispatch, factor, granularity in (
        ({}, "capacity", None, "token"),
        (
          {"granularity": "task", "dispatch": "auto", "capacity_factor": 2.0},
          *("auto", 2.0, "task"),
        ),
      )
    ),
    (
      {"renormalize": "after", "num_selected": 1},
      "renormalize='after' would make every gate 1 with num_selected=1, and the"
      " router could not learn. Set MoeConfig.renormalize to 'before'.",
    ),
    (
      {"renormalize": "after", "expert_mask_rate": 0.2},
      "renormalize='after' would undo expert_mask_rate=0.2, which already"
      " scales gates. Set MoeConfig.renormalize to 'before', or"
      " MoeConfig.expert_mask_rate to 0.0.",
    ),
    (
      {"renormalize": "after", "second_expert_policy": "sampling"},
      "renormalize='after' does nothing where no choice is ever dropped:"
      " dispatch is 'capacity', capacity_factor is None, pool_factor is None,"
      " granularity 'token' and second_expert_policy 'sampling'. Set"
      " MoeConfig.renormalize to 'before'.",
    ),
  ],
)
def test_what_does_not_go_together(moe_config, values, message):
  refused(moe_config, values, message)


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


def test_granularity_and_dispatch_become_members():
  config = MoeConfig.from_dict(VALUES)
  assert config.granularity == TASK
  assert config.dispatch is Dispatch.AUTO


def test_which_granularities_the_task_alone_decides():
  assert {name for name, g in GRANULARITIES.items() if g.by_task} == {
    "task",
    "static",
  }


@pytest.mark.parametrize("num_selected", [1, 5])
def test_numbers_of_experts_that_can_be_selected(num_selected):
  config = MoeConfig.from_dict({**VALUES, "num_selected": num_selected})
  assert config.num_selected == num_selected


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
    MoeConfig.from_dict({**VALUES, **values})
  assert str(error.value) == message
