"""Sub-networks of several tasks."""

import dataclasses

import jax
import numpy as np
import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.verify import TOLERANCE, logit_difference
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace


@pytest.fixture
def union_of():
  """Extracts a translator of some pairs."""

  def make(mixture, *pairs):
    space = mixture.task_space
    served = TaskSpace.from_pairs(pairs, space.task_by)
    ids = tuple(map(space.task_id, served.tasks))
    params, config, selected = extract(
      mixture.params, mixture.model, ids, len(space.tasks)
    )
    return Translator(config, params, served, mixture.vocabulary), selected

  return make


@pytest.fixture
def of_one_expert(mixture_of, random_params):
  """A mixture whose tokens have one expert each, with its probability."""

  def make(encoder, decoder):
    mixture = mixture_of(encoder, decoder)
    stacks = {}
    for name in ("encoder", "decoder"):
      stack = getattr(mixture.model, name)
      moe = dataclasses.replace(stack.moe, num_selected=1)
      stacks[name] = dataclasses.replace(stack, moe=moe)
    config = dataclasses.replace(mixture.model, **stacks)
    space = mixture.task_space
    params = random_params(Transformer(config, len(space.tasks)))
    return Translator(config, params, space, mixture.vocabulary)

  return make


def _same(mixture, small, samples, *pairs):
  """Whether logits are equal, pair by pair."""
  return [
    logit_difference(mixture, small, pair, samples[pair]) <= TOLERANCE
    for pair in pairs
  ]


@pytest.mark.slow
def test_a_union_by_gate_is_its_mixture(mixture_of, union_of, samples):
  mixture = mixture_of("task", "task_then_token")
  # In another order than the mixture's: ids are new.
  small, selected = union_of(mixture, "en-fr", "en-de")
  assert small.task_space.tasks == ("fr", "de")
  assert _same(mixture, small, samples, "en-fr", "en-de") == [True, True]
  # Ids that are mixed up are other networks.
  mixed = Translator(
    small.model,
    small.params,
    TaskSpace.from_pairs(("en-de", "en-fr"), "target"),
    small.vocabulary,
  )
  assert _same(mixture, mixed, samples, "en-fr", "en-de") == [False, False]
  for name, chosen in selected.items():
    moe = getattr(small.model, name).moe
    assert chosen.gates is None
    assert moe.granularity == getattr(mixture.model, name).moe.granularity
    assert chosen.experts.shape == (2, moe.num_experts)
    assert moe.num_experts <= 5
    wanted = [
      extract(mixture.params, mixture.model, (task,), 3)[2][name].experts
      for task in (1, 2)
    ]
    for block, kept in enumerate(chosen.experts):
      assert sorted(set(kept)) == kept.tolist()
      assert {*wanted[0][block], *wanted[1][block]} <= {*kept}


@pytest.mark.slow
def test_a_union_by_table_is_its_mixture(of_one_expert, union_of, samples):
  """With one expert each its gate is no constant of fewer experts."""
  mixture = of_one_expert("static", "task")
  small, selected = union_of(mixture, "en-fr", "en-de")
  assert _same(mixture, small, samples, "en-fr", "en-de") == [True, True]
  for stack in (small.model.encoder, small.model.decoder):
    assert stack.moe.granularity == "static"
    assert (stack.moe.num_experts, stack.moe.num_selected) == (2, 1)
  assert selected["encoder"].experts.tolist() == [[2, 1], [2, 1]]
  assert selected["encoder"].gates is None
  assert np.all(selected["decoder"].gates < 1)
  assert "task_table" not in small.params["decoder"]


def test_tasks_that_agree_are_dense(mixture_of, union_of):
  mixture = mixture_of("task", "task")
  for stack in ("encoder", "decoder"):
    table = mixture.params[stack]["task_table"]
    mixture.params[stack]["task_table"] = table.at[2].set(table[1])
  small, selected = union_of(mixture, "en-de", "en-fr")
  params, config, of_one = extract(mixture.params, mixture.model, (1,), 3)
  assert small.model == config
  assert small.model.decoder.mlp_dims == (7, 12)
  jax.tree.map(np.testing.assert_array_equal, small.params, params)
  np.testing.assert_array_equal(
    selected["decoder"].experts, of_one["decoder"].experts
  )


@pytest.mark.slow
def test_layers_that_need_fewer_experts_are_filled_up(mixture_of, union_of):
  """In one layer both tasks have the same experts, in the other four do."""
  mixture = mixture_of("token", "task")
  decoder = mixture.params["decoder"]
  router = decoder["blocks"]["layer_1"]["moe"]["router"]
  scores = np.zeros((2, 8, 5), np.float32)
  scores[0, 1, [0, 3]] = scores[0, 2, [0, 3]] = scores[1, 1, [0, 1]] = 1
  scores[1, 2, [2, 4]] = 2
  router["table"] = scores
  decoder["task_table"] = np.eye(3, 8, dtype=np.float32)
  _, selected = union_of(mixture, "en-de", "en-fr")
  assert selected["decoder"].experts.tolist() == [[0, 1, 2, 3], [0, 1, 2, 4]]
