"""The parts of the Transformer that granularities do not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.models.transformer import Transformer

TASK_IDS = jnp.array([1, 2])
BATCH = {
  "encoder_input_tokens": jnp.array([[5, 9, 12, 1], [6, 8, 1, 0]]),
  "decoder_input_tokens": jnp.array([[0, 7, 15], [0, 11, 0]]),
  "decoder_loss_weights": jnp.array([[1.0, 1, 1], [1, 1, 0]]),
}


def compiled(config, *, train=False):
  """A function of parameters, task ids and the seed of dropout."""
  model = Transformer(config, 3)

  def run(params, task_ids=TASK_IDS, seed=0):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply(
      {"params": params}, BATCH, task_ids, train=train, rngs=rngs
    )

  # Optimising takes longer than it saves.
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(run, compiler_options=options)


def changed(params, **tables):
  return {**params, **{name: {"table": t} for name, t in tables.items()}}


@pytest.mark.slow
def test_three_tables(tiny_config, draw_params):
  """With one table thrice the model is that of one table; each is its own."""
  one = tiny_config(None, None)
  three = tiny_config(None, None, embeddings="three")
  params = draw_params(one)
  table = params["embedding"]["table"]
  thrice = changed(params, decoder_embedding=table, softmax=table)
  assert thrice.keys() == draw_params(three).keys()
  expected, _ = compiled(one)(params)
  logits_and_statistics = compiled(three)

  def run(params):
    return logits_and_statistics(params)[0]

  np.testing.assert_allclose(run(thrice), expected, atol=1e-6)
  # The softmax is linear in its table.
  twofold = changed(thrice, softmax=2 * table)
  np.testing.assert_allclose(run(twofold), 2 * expected, atol=1e-5)
  # Token 5 is only in a source, 7 only in a target.
  source_only = changed(thrice, embedding=table.at[7].add(1))
  np.testing.assert_allclose(run(source_only), expected, atol=1e-6)
  target_only = changed(thrice, decoder_embedding=table.at[5].add(1))
  np.testing.assert_allclose(run(target_only), expected, atol=1e-6)
  for name, token in (("embedding", 5), ("decoder_embedding", 7)):
    other = run(changed(thrice, **{name: table.at[token].add(1)}))
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.slow
def test_a_dense_model_has_no_statistics_and_ignores_tasks(
  tiny_config, draw_params
):
  config = tiny_config(None, None, activation="gated_gelu")
  params, run = draw_params(config), compiled(config)
  logits, statistics = run(params)
  assert statistics == {}
  assert logits.shape == (2, 3, 19)
  np.testing.assert_array_equal(run(params, jnp.array([0, 0]))[0], logits)


@pytest.mark.slow
def test_the_task_matters_to_task_routed_stacks(tiny_config, draw_params):
  config = tiny_config(None, "task")
  params, run = draw_params(config), compiled(config)
  before, after = run(params)[0], run(params, jnp.array([1, 0]))[0]
  np.testing.assert_array_equal(before[0], after[0])
  assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.slow
def test_bfloat16_computes_what_float32_does(tiny_config, draw_params):
  config = tiny_config(None, "static", dtype="bfloat16")
  params = draw_params(config)
  expected, _ = compiled(tiny_config(None, "static"))(params)
  found, _ = compiled(config)(params)
  assert found.dtype == jnp.float32
  # 8 bits of mantissa through 6 layers, logits of order 1.
  np.testing.assert_allclose(found[0], expected[0], atol=0.1)
  assert np.abs(found - expected).max() > 1e-4


@pytest.mark.slow
def test_dropout_is_for_training(tiny_config, draw_params):
  config = tiny_config(None, None, dropout_rate=0.3)
  params = draw_params(config)
  plain, _ = compiled(tiny_config(None, None))(params)
  still, _ = compiled(config)(params)
  np.testing.assert_array_equal(still, plain)
  run = compiled(config, train=True)
  a, again, b = (run(params, seed=i)[0] for i in (0, 0, 1))
  np.testing.assert_array_equal(a, again)
  assert np.abs(a - plain).max() > 1e-2
  assert np.abs(a - b).max() > 1e-2


@pytest.mark.expensive("it compiles models")
def test_what_is_computed_twice_changes_no_gradient(tiny_config, draw_params):
  """With the same dropout both times; and less is kept in between."""
  params = draw_params(tiny_config(None, None))

  def program(rematerialize):
    config = tiny_config(
      None, None, dropout_rate=0.3, rematerialize=rematerialize
    )

    def loss(params):
      logits, _ = Transformer(config, 3).apply(
        {"params": params},
        BATCH,
        TASK_IDS,
        train=True,
        rngs={"dropout": jax.random.key(0)},
      )
      return jnp.mean(jnp.square(logits))

    backward = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    gradient = jax.jit(
      jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0}
    )
    return gradient(params), kept

  expected, most = program("none")
  some, less = program("all_but_products")
  few, least = program("full")
  assert least < less < most
  for found in (some, few):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      found,
      expected,
    )
