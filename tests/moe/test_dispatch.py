"""Which engine is chosen, and that it says why."""

import jax.numpy as jnp
import pytest

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.dispatch import Phase, choose_engine, expert_axes
from taskmoe_jax.moe.dropless import Dropless
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import activate
from tests.moe.test_engines import make_weights, partitioning

ALL = Dropless(2.0, spare_places=8, in_rounds=True)


def config_of(granularity, dispatch, **values):
  fixed = {
    "num_experts": 7,
    "num_selected": 2,
    "expert_mlp_dim": 6,
    "capacity_factor": 1.5,
    "pool_factor": 1.25,
    "group_size": 64,
    "balance_loss_weight": 0.0,
    "z_loss_weight": 0.0,
  }
  if granularity == "word":
    values["word_table"] = "dealt"
  if granularity == "task_then_token":
    values["num_candidates"] = 3
  return MoeConfig.from_dict(
    {"granularity": granularity, "dispatch": dispatch, **fixed, **values}
  )


def choose(config, phase, num_rows=12):
  return choose_engine(
    config, Phase(phase), num_rows=num_rows, rows_per_task_group=4
  )


@pytest.mark.parametrize(
  ("granularity", "dispatch", "phase", "engine"),
  [
    ("token", "auto", "train", Dropless(1.25)),
    ("token", "auto", "evaluate", ALL),
    ("token", "auto", "decode", ALL),
    ("token", "capacity", "train", Capacity(1.5, 64)),
    ("token", "capacity", "evaluate", ALL),
    ("token", "capacity", "decode", ALL),
    ("token", "dropless", "train", Dropless(1.25)),
    ("word", "auto", "train", Dropless(1.25)),
    ("task_then_token", "auto", "train", Dropless(1.25)),
    ("sentence", "auto", "train", Dropless(1.25)),
    ("sentence", "expert_fetch", "train", ExpertFetch(1)),
    ("task", "auto", "train", ExpertFetch(4)),
    ("task", "auto", "evaluate", ExpertFetch(4)),
    ("task", "expert_fetch", "train", ExpertFetch(4)),
    ("task", "capacity", "train", Capacity(1.5, 64)),
    ("task", "capacity", "evaluate", ALL),
    ("task", "dropless", "train", Dropless(1.25)),
    ("static", "auto", "train", ExpertFetch(4)),
    ("static", "capacity", "train", Capacity(1.5, 64)),
  ],
)
def test_choices(granularity, dispatch, phase, engine):
  choice = choose(config_of(granularity, dispatch), phase)
  assert choice.engine == engine
  name, reason = str(choice).split(": ")
  assert name in ("capacity", "dropless", "expert_fetch")
  assert len(reason.split()) > 2


def test_auto_counts_the_experts_of_the_groups():
  """16 rows are four groups of two experts each: more than the seven."""
  choice = choose(config_of("task", "auto"), "train", num_rows=16)
  assert str(choice) == (
    "dropless: 4 groups of rows with 2 experts each are more than the 7 there"
    " are"
  )
  with activate(partitioning((2, 2, 2))):
    choice = choose(config_of("task", "auto"), "train", num_rows=16)
  assert choice.engine == ExpertFetch(4)


def test_settings_reach_the_engine():
  config = config_of("task", "expert_fetch", refetch=True)
  assert choose(config, "train").engine == ExpertFetch(4, refetch=True)
  config = config_of("token", "capacity", renormalize="after")
  assert choose(config, "train").engine == Capacity(1.5, 64, True)
  config = config_of("token", "dropless", renormalize="after")
  assert choose(config, "train").engine == Dropless(1.25, True)


@pytest.mark.parametrize(
  ("train", "length", "phase"),
  [(True, 1, "train"), (False, 1, "decode"), (False, 2, "evaluate")],
)
def test_phases(train, length, phase):
  assert Phase.of(train=train, length=length) == phase


@pytest.mark.parametrize(
  ("granularity", "dispatch", "fetched"),
  [
    ("task", "auto", True),
    ("static", "expert_fetch", True),
    ("sentence", "expert_fetch", True),
    ("token", "auto", False),
    ("task", "capacity", False),
    ("task", "dropless", False),
  ],
)
def test_experts_lie_as_their_engine_wants_them(granularity, dispatch, fetched):
  expected = (axes.EXPERT, (axes.EMBED, axes.MLP))
  if fetched:
    expected = (axes.FETCHED_EXPERT, (None, axes.FETCHED_MLP))
  assert expert_axes(config_of(granularity, dispatch)) == expected


def test_expert_fetch_needs_a_decision_a_row():
  routing = Routing(jnp.zeros((2, 3, 1), jnp.int32), jnp.ones((2, 3, 1)))
  with pytest.raises(TaskMoeError) as error:
    ExpertFetch(1)(
      jnp.ones((2, 3, 32)),
      routing,
      jnp.ones((2, 3), bool),
      make_weights(Activation.RELU),
      Activation.RELU,
    )
  assert str(error.value) == (
    "dispatch 'expert_fetch' needs one routing decision a row, but packed rows"
    " routed by sentence have several. Set MoeConfig.dispatch to 'dropless' or"
    " 'auto', or PACK to False."
  )
