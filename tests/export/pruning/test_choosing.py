"""Which experts are kept: drawn tables, and every refusal."""

import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.pruning.choosing import (
  PruneBy,
  Pruning,
  choose_experts,
  prunable_stacks,
)
from taskmoe_jax.export.pruning.plans import plans_named
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import TOKEN

SETTINGS = {"by": "task", "layers": "even", "metric": "importance"}


def stack_of(num_experts, num_blocks, num_selected=2):
  moe = MoeConfig(
    granularity=TOKEN,
    num_experts=num_experts,
    num_selected=num_selected,
    expert_mlp_dim=3,
    dispatch=Dispatch.AUTO,
    capacity_factor=2.0,
    group_size=8,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  return StackConfig(num_layers=num_blocks, mlp_dims=(), moe=moe)


def chosen(scores, num_selected=2, **changes):
  """Ids of the kept experts."""
  scores = {name: np.array(rows, float) for name, rows in scores.items()}
  stacks = {
    name: stack_of(rows.shape[1], rows.shape[0], num_selected)
    for name, rows in scores.items()
  }
  pruning = Pruning.named(**{**SETTINGS, **changes})
  return {
    name: [ids.tolist() for ids in blocks]
    for name, blocks in choose_experts(scores, stacks, pruning).items()
  }


# Two blocks of four in the encoder, one of eight in the decoder.
ENCODER = [[1, 9, 3, 7], [6, 5, 5, 1]]
DECODER = [[8, 1, 2, 3, 4, 5, 6, 7]]
BOTH = {"encoder": ENCODER, "decoder": DECODER}


def test_as_many_in_each_layer():
  assert chosen(BOTH, rate=0.5) == {
    # Of the two fives the lower index.
    "encoder": [[1, 3], [0, 1]],
    "decoder": [[0, 5, 6, 7]],
  }
  assert chosen(BOTH, rate=0.25)["encoder"] == [[1, 2, 3], [0, 1, 2]]


def test_a_share_for_the_encoder():
  """Of 8 kept experts 6 are the encoder's: three in each of its layers."""
  assert chosen(BOTH, rate=0.5, encoder_share=0.75) == {
    "encoder": [[1, 2, 3], [0, 1, 2]],
    "decoder": [[0, 7]],
  }


def test_a_threshold_for_all_layers():
  """Shares are .8 .15 .05 and .7 .2 .1.

  Besides the best one of each, experts come in the order in which .7, .8, .9
  and .95 are made up by better ones of their layer.
  """
  scores = {"decoder": [[16, 3, 1], [7, 2, 1]]}
  settings = {"num_selected": 1, "layers": "global"}
  assert chosen(scores, rate=0.5, **settings) == {"decoder": [[0], [0, 1]]}
  assert chosen(scores, rate=0.34, **settings) == {"decoder": [[0, 1], [0, 1]]}
  assert chosen(scores, rate=0.16, **settings) == {
    "decoder": [[0, 1], [0, 1, 2]]
  }


def test_a_threshold_for_both_stacks():
  """The decoder leans on one expert, the encoder on none."""
  scores = {"encoder": [[1, 1, 1, 1]], "decoder": [[1, 0, 0, 97]]}
  settings = {"num_selected": 1, "layers": "global"}
  assert chosen(scores, rate=0.5, **settings) == {
    "encoder": [[0, 1, 2]],
    "decoder": [[3]],
  }
  assert chosen(scores, rate=0.5, encoder_share=0.5, **settings) == {
    "encoder": [[0, 1]],
    "decoder": [[0, 3]],
  }


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rate": 0.0}, r"prune=0.0 is outside \(0, 1\).*Set --rate\.$"),
    ({"rate": 1.0}, r"prune=1.0 is outside \(0, 1\)"),
    ({"by": "lang"}, r"unknown prune_by 'lang'.*'language'\?.*Set --by"),
    ({"layers": "x"}, "unknown prune_layers 'x'.*Set --layers"),
    ({"metric": "x"}, "unknown prune_metric 'x'.*Set --metric"),
    ({"encoder_share": 1.0}, "encoder_share=1.0 is outside .*--encoder_share"),
    (
      {"metric": "use", "by": "pair"},
      "'use' cannot prune by 'pair'.*Set --by to 'task' or 'all'",
    ),
    (
      {"rate": 0.75},
      "encoder would keep 1.0 of 4 experts a layer, and each token chooses 2",
    ),
    (
      {"encoder_share": 0.25, "layers": "global"},
      "encoder would keep 1.0 of 4 experts .* Lower --rate",
    ),
    (
      {"encoder_share": 0.9, "rate": 0.25},
      "encoder would keep 5.5 experts a layer and has 4. Raise --rate",
    ),
  ],
)
def test_refusals(changes, message):
  with pytest.raises(TaskMoeError, match=message):
    chosen(BOTH, **{"rate": 0.5, **changes})


def test_a_share_of_one_stack():
  with pytest.raises(TaskMoeError, match=r"only the decoder is pruned\. Leave"):
    chosen({"decoder": DECODER}, rate=0.5, encoder_share=0.5)


@pytest.mark.slow
def test_stacks_that_can_be_pruned(mixture_of):
  assert list(prunable_stacks(mixture_of("token", "sentence").model)) == [
    "encoder",
    "decoder",
  ]
  assert list(prunable_stacks(mixture_of("task", "token").model)) == ["decoder"]
  with pytest.raises(
    TaskMoeError,
    match="nothing can be pruned: the encoder is routed by word and the decoder"
    " is routed by task",
  ):
    prunable_stacks(mixture_of("word", "task").model)


@pytest.mark.slow
def test_bundles_by_name(mixture_of):
  """Pairs en-de, de-en, en-fr, fr-en, routed by target."""
  token = mixture_of("token", "token")
  space, model = token.task_space, token.model

  def plans(names, by):
    return {
      plan.name: (plan.pairs, plan.ranks["encoder"], plan.ranks["decoder"])
      for plan in plans_named(space, model, names, PruneBy(by))
    }

  english = ("de-en", "fr-en")
  assert plans("fr-en", "task") == {"en": (english, english, english)}
  assert plans("de,de-en", "pair") == {
    pair: ((pair,), (pair,), (pair,)) for pair in ("en-de", "de-en")
  }
  # From English, and into German.
  assert plans("de", "language") == {
    "en-de": (("en-de",), ("en-de", "en-fr"), ("en-de",))
  }
  assert plans("all", "all") == {"pruned": (space.pairs,) * 3}
  with pytest.raises(TaskMoeError, match=r"unknown task or pair 'x'.*--tasks"):
    plans("x", "pair")


@pytest.mark.slow
def test_one_bundle_of_many_tasks_is_not_reduced(mixture_of):
  mixture = mixture_of("token", "task")
  with pytest.raises(TaskMoeError, match="decoder is reduced to one task's"):
    plans_named(mixture.task_space, mixture.model, "all", PruneBy.ALL)
  (plan,) = plans_named(mixture.task_space, mixture.model, "fr", PruneBy.TASK)
  assert plan.extracted
  assert plan.tasks == ("fr",)
