import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.extract import extract, merge_experts
from taskmoe_jax.export.selection import reducible_stacks
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.tables import static_experts


@pytest.mark.slow
@pytest.mark.parametrize("activation", list(Activation))
def test_merged_experts_are_the_weighted_sum(activation):
  """One block; three experts of D = 2, F = 3, of which 2 and then 0 serve."""
  generator = np.random.default_rng(1)
  names = ("wi", "wi_1")[: activation.num_inputs]
  experts = {
    name: jnp.asarray(generator.normal(size=(1, 3, 2, 3)), jnp.float32)
    for name in names
  }
  experts["wo"] = jnp.asarray(generator.normal(size=(1, 3, 3, 2)), jnp.float32)
  merged = merge_experts(
    experts, np.array([[2, 0]]), np.array([[0.75, 0.25]], np.float32)
  )
  assert {name: weights.shape for name, weights in merged.items()} == {
    **dict.fromkeys(names, (1, 2, 6)),
    "wo": (1, 6, 2),
  }
  x = jnp.array([[0.3, -1.2], [2.0, 0.5]])

  def network(weights, *index):
    hidden = activation(*(x @ weights[name][0][index] for name in names))
    return hidden @ weights["wo"][0][index]

  expected = 0.75 * network(experts, 2) + 0.25 * network(experts, 0)
  np.testing.assert_allclose(network(merged, ...), expected, rtol=1e-5)


def test_merged_experts_by_hand():
  """The root of a gate, 2 of 4 and 3 of 9, is in either matrix."""
  experts = {
    "wi": jnp.array([[[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]]),
    "wo": jnp.array([[[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]]]]),
  }
  merged = merge_experts(
    experts, np.array([[1, 2]]), np.array([[4.0, 9.0]], np.float32)
  )
  np.testing.assert_allclose(merged["wi"], [[[6, 8, 15, 18]]], rtol=1e-6)
  np.testing.assert_allclose(merged["wo"], [[[6], [8], [15], [18]]], rtol=1e-6)


@pytest.fixture
def batch():
  """One row for each of the four pairs, all the same sentence."""
  source = [[3, 9, 12, 1, 0, 0]] * 4
  target = np.array([[10, 8, 14, 1, 0]] * 4, np.int32)
  return {
    "encoder_input_tokens": jnp.array(source, jnp.int32),
    "decoder_input_tokens": jnp.array(np.pad(target, ((0, 0), (1, 0)))[:, :-1]),
    "decoder_loss_weights": jnp.array(target > 0, jnp.float32),
  }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(config, num_tasks, params, batch, task_ids):
  model = Transformer(config, num_tasks)
  return model.apply({"params": params}, batch, task_ids, train=False)[0]


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize(
  ("encoder", "decoder", "task_by", "activation"),
  [
    ("task", "task", "target", "relu"),
    ("static", "task", "source", "gated_gelu"),
    ("task", "static", "pair", "relu"),
    ("token", "task", "pair", "relu"),
    ("task", "sentence", "source", "gated_gelu"),
    ("task", "task_then_token", "target", "relu"),
    ("task_then_token", "word", "pair", "gated_gelu"),
  ],
)
def test_a_sub_network_is_its_mixture(
  mixture_of, batch, encoder, decoder, task_by, activation
):
  """Row by row: each row of the mixture's batch is of another pair."""
  mixture = mixture_of(encoder, decoder, task_by=task_by, activation=activation)
  space, num_tasks = mixture.task_space, len(mixture.task_space.tasks)
  tasks = [space.task_of_pair(pair) for pair in space.pairs]
  ids = jnp.array([space.task_id(task) for task in tasks])
  whole = _logits(mixture.model, num_tasks, mixture.params, batch, ids)
  valid = np.asarray(batch["decoder_loss_weights"] > 0)
  for task in space.tasks:
    params, config, selected = extract(
      mixture.params, mixture.model, (space.task_id(task),), num_tasks
    )
    small = _logits(config, 1, params, batch, 0 * ids)
    for row in range(4):
      same = np.abs(whole[row] - small[row])[valid[row]].max() < 1e-4
      # Of another task it would be another network.
      assert same == (tasks[row] == task), (task, row)
    assert set(selected) == {
      name
      for name, granularity in (("encoder", encoder), ("decoder", decoder))
      if granularity in ("task", "static", "task_then_token")
    }
    for name, chosen in selected.items():
      if chosen.gates is None:
        continue
      assert chosen.layers == (1, 3)
      np.testing.assert_allclose(chosen.gates.sum(1), 1, rtol=1e-6)
      assert getattr(config, name).mlp_dims == (7, 12)
      assert "task_table" not in params[name]


def test_static_experts_are_those_dealt_out(mixture_of):
  mixture = mixture_of("static", "static")
  _, _, selected = extract(mixture.params, mixture.model, (2,), 3)
  for stack in ("encoder", "decoder"):
    assert selected[stack].experts.tolist() == [[4, 0], [4, 0]]
    assert selected[stack].gates.tolist() == [[0.5, 0.5], [0.5, 0.5]]
  assert static_experts(3, 5, 2).tolist()[2] == [4, 0]


@pytest.mark.slow
def test_candidates_leave_a_small_mixture(mixture_of):
  """Three of five experts, in the order in which they were."""
  mixture = mixture_of("task_then_token", "task_then_token")
  params, config, selected = extract(mixture.params, mixture.model, (1,), 3)
  for stack in ("encoder", "decoder"):
    was = mixture.params[stack]
    moe = getattr(config, stack).moe
    assert (moe.num_experts, moe.num_candidates, moe.num_selected) == (3, 3, 2)
    assert getattr(config, stack).mlp_dims == (7,)
    np.testing.assert_array_equal(
      params[stack]["task_table"], was["task_table"][1:2]
    )
    assert selected[stack].gates is None
    assert selected[stack].layers == (1, 3)
    router = was["blocks"]["layer_1"]["moe"]["router"]
    scores = np.einsum("d,bde->be", was["task_table"][1], router["task_gate"])
    best = np.sort(np.argsort(-scores, axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(selected[stack].experts, best)
    old = was["blocks"]["layer_1"]["moe"]
    new = params[stack]["blocks"]["layer_1"]["moe"]
    for block, chosen in enumerate(best):
      for name in ("wi", "wo"):
        np.testing.assert_array_equal(
          new["experts"][name][block], old["experts"][name][block][chosen]
        )
      for name in ("table", "task_gate"):
        np.testing.assert_array_equal(
          new["router"][name][block], old["router"][name][block][:, chosen]
        )
  # It is itself of one task, and nothing more can be taken from it.
  again, same, _ = extract(params, config, (0,), 1)
  assert same == config
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_the_mixture_is_not_changed(mixture_of):
  mixture = mixture_of()
  names = jax.tree.structure(mixture.params)
  extract(mixture.params, mixture.model, (0,), 3)
  assert jax.tree.structure(mixture.params) == names


@pytest.mark.slow
def test_stacks_that_can_be_reduced(mixture_of):
  def reducible(encoder, decoder):
    return reducible_stacks(mixture_of(encoder, decoder).model)

  assert reducible("task", "static") == ("encoder", "decoder")
  assert reducible("token", "task") == ("decoder",)
  assert reducible("static", "sentence") == ("encoder",)
  assert reducible("word", "task_then_token") == ("decoder",)
  with pytest.raises(
    TaskMoeError,
    match="no sub-network can be extracted: the encoder is routed by token and"
    " the decoder is routed by sentence, and only experts that the task decides"
    " on can be told before the text is seen. Train with ENCODER or DECODER set"
    r" to 'task', 'static' or 'task_then_token'\.",
  ):
    reducible("token", "sentence")
  config = mixture_of("token", "task").model
  dense = type(config.decoder)(num_layers=2, mlp_dims=(7,))
  with pytest.raises(TaskMoeError, match="token and the decoder is dense, and"):
    reducible_stacks(type(config)(**{**vars(config), "decoder": dense}))
