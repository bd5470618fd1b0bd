"""Fine-tuning takes layers as they are, upcycling makes experts of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.parameters import abstract_params
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.granularity import TOKEN
from taskmoe_jax.train.initial import transfer


@pytest.fixture
def models(model_config):
  """A dense one of four layers a side, and a mixture with the same widths."""
  mixture = model_config(moe={"expert_mlp_dim": 7, "granularity": "task"})
  stack = dataclasses.replace(mixture.encoder, num_layers=4)
  token = dataclasses.replace(
    stack, moe=dataclasses.replace(stack.moe, granularity=TOKEN)
  )
  dense = StackConfig(num_layers=4, mlp_dims=(7,))
  return (
    model_config(encoder=dense, decoder=dense),
    model_config(encoder=token, decoder=stack),
  )


def _draw(config, seed):
  drawn = Transformer(config, 3)
  generator = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      0.5 * generator.normal(size=leaf.shape), "float32"
    ),
    nn.unbox(abstract_params(drawn)),
  )


def _logits(config, params, batch):
  run = jax.jit(
    lambda params: Transformer(config, 3).apply(
      {"params": params}, batch, jnp.array([1, 0, 0]), train=False
    )[0],
    compiler_options={"xla_backend_optimization_level": 0},
  )
  return np.asarray(run(params))


@pytest.mark.expensive("it compiles models")
def test_an_upcycled_model_is_the_dense_one(models, batch):
  """Whatever the routers choose: gates of equal experts sum to 1."""
  dense, mixture = models
  source, drawn = _draw(dense, 0), _draw(mixture, 1)
  params, taken = transfer(source, dense, drawn, mixture, "")
  # Routers in both stacks, and one table of tasks.
  assert len(jax.tree.leaves(params)) - len(taken) == 3
  moe = params["decoder"]["blocks"]["layer_1"]["moe"]
  of_dense = source["decoder"]["blocks"]["layer_0"]["mlp"]["wi"]
  for expert in range(4):
    np.testing.assert_array_equal(
      moe["experts"]["wi"][:, expert], of_dense[1::2]
    )
  np.testing.assert_array_equal(
    moe["router"]["table"],
    drawn["decoder"]["blocks"]["layer_1"]["moe"]["router"]["table"],
  )
  expected = _logits(dense, source, batch)
  found = _logits(mixture, params, batch)
  # An expert's output for padding is nobody's business.
  valid = np.asarray(batch["decoder_loss_weights"]) > 0
  # Float rounding: sums of two halves, through eight layers.
  np.testing.assert_allclose(
    found[valid], expected[valid], rtol=1e-4, atol=1e-5
  )


@pytest.mark.slow
def test_the_same_model_is_taken_whole_or_in_part(models):
  _, mixture = models
  source, drawn = _draw(mixture, 0), _draw(mixture, 1)
  params, taken = transfer(source, mixture, drawn, mixture, "")
  jax.tree.map(np.testing.assert_array_equal, params, source)
  assert len(taken) == len(jax.tree.leaves(source))
  params, taken = transfer(source, mixture, drawn, mixture, "^encoder/.*norm")
  assert taken
  for name in taken:
    assert name.startswith("encoder/")
    assert "norm" in name
  np.testing.assert_array_equal(
    params["embedding"]["table"], drawn["embedding"]["table"]
  )


@pytest.mark.slow
def test_what_does_not_fit(models, model_config):
  dense, mixture = models
  source = _draw(dense, 0)
  wider = dataclasses.replace(dense, vocab_size=23)
  with pytest.raises(
    TaskMoeError,
    match=r"parameter embedding/table is of shape \[19, 8\] in INITIAL_RUN, and"
    r" of shape \[23, 8\] here\. Set MODEL .* INITIAL_INCLUDE",
  ):
    transfer(source, dense, _draw(wider, 1), wider, "")
  with pytest.raises(TaskMoeError, match="INITIAL_INCLUDE='nowhere' is found"):
    transfer(source, dense, source, dense, "nowhere")
  with pytest.raises(TaskMoeError, match="encoder of INITIAL_RUN has 4 lay"):
    transfer(source, dense, source, model_config(), "")
  # A mixture makes no dense layer.
  with pytest.raises(TaskMoeError, match=r"mlp/wi is missing in INITIAL_RUN"):
    transfer(_draw(mixture, 0), mixture, source, dense, "")
