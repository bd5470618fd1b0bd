import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.step import state as train_state

pytestmark = pytest.mark.bit_for_bit

MESH = MeshShape(data=2, expert=2, model=2)
WI = ("encoder", "blocks", "layer_1", "moe", "experts", "wi")


def _at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


@pytest.fixture
def partitioning():
  return lambda fsdp=False: Partitioning(make_mesh(MESH), fsdp)


@pytest.fixture
def adafactor():
  def make(params):
    return optimizers.adafactor(
      optax.constant_schedule(0.1),
      parameter_scale=True,
      stacked_axes=train_state.stacked_axes(params),
    )

  return make


@pytest.fixture
def even(model_config):
  """A model routed by token whose every width two devices can share."""
  moe = model_config(moe={"expert_mlp_dim": 6}).encoder.moe
  stack = StackConfig(num_layers=2, mlp_dims=(10,), moe=moe)
  return model_config(vocab_size=20, encoder=stack, decoder=stack)


@pytest.fixture
def boxed(even):
  return parameters.abstract_params(Transformer(even, 3))


@pytest.mark.slow
def test_shapes_and_axes(boxed):
  leaf = _at(nn.unbox(boxed), WI)
  assert (leaf.shape, leaf.dtype) == ((1, 4, 8, 6), np.float32)
  axes = parameters.logical_axes(boxed)
  assert _at(axes, WI) == ("layer", "expert", "embed", "mlp")
  assert axes["embedding"]["table"] == ("vocab", "embed")
  stacked = train_state.stacked_axes(boxed)
  assert _at(stacked, WI) == 2
  assert stacked["embedding"]["table"] == 0


@pytest.mark.slow
def test_parameters_are_counted(boxed):
  attention, dense, experts = 4 * 8 * 6, 2 * 8 * 10, 4 * 2 * 8 * 6
  router, bias, norm = 8 * 4, 32 * 2, 8
  stack = 2 * attention + dense + experts + router + bias + 4 * norm + norm
  decoder = stack + 2 * (attention + norm)
  assert parameters.parameter_count(boxed) == 20 * 8 + stack + decoder


@pytest.mark.slow
def test_where_parameters_lie(boxed, partitioning):
  shapes = nn.unbox(boxed)

  def shard_shape(path, fsdp):
    shardings = parameters.parameter_shardings(boxed, partitioning(fsdp))
    return _at(shardings, path).shard_shape(_at(shapes, path).shape)

  assert shard_shape(WI, fsdp=False) == (1, 2, 8, 3)
  assert shard_shape(WI, fsdp=True) == (1, 2, 4, 3)
  assert shard_shape(("embedding", "table"), fsdp=False) == (10, 8)


@pytest.mark.slow
def test_a_width_that_does_not_divide(model_config, partitioning):
  boxed = parameters.abstract_params(Transformer(model_config(), 3))
  with pytest.raises(
    TaskMoeError,
    match=r"parameter \S+: axis '\w+' of size \d+ does not divide over the 2"
    r" devices of mesh axis 'model'\. Set MeshShape\.model to a divisor",
  ):
    parameters.parameter_shardings(boxed, partitioning())


@pytest.mark.slow
def test_the_optimizer_lies_beside_its_parameters(
  boxed, adafactor, partitioning
):
  """Counts of each expert are where the expert is; its moments as it is."""
  optimizer = adafactor(boxed)
  shardings = train_state.state_shardings(boxed, optimizer, partitioning())
  abstract = train_state.abstract_state(boxed, optimizer, shardings)
  _, states = abstract.optimizer_state
  shapes = {
    (leaf.shape, leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(_at(states, WI))
  }
  assert ((1, 4, 8, 6), (1, 2, 8, 3)) in shapes
  assert ((1, 4), (1, 2)) in shapes
  assert abstract.step.sharding.is_fully_replicated


@pytest.mark.expensive("it compiles models")
def test_the_same_numbers_on_any_mesh(model_config, adafactor, partitioning):
  stack = StackConfig(num_layers=1, mlp_dims=(10,))
  config = model_config(vocab_size=20, encoder=stack, decoder=stack)
  model = Transformer(config, 3)
  boxed = parameters.abstract_params(model)
  optimizer = adafactor(boxed)
  states = []
  for where in (
    Partitioning(make_mesh(MeshShape(), jax.devices()[:1])),
    partitioning(fsdp=True),
  ):
    shardings = train_state.state_shardings(boxed, optimizer, where)
    state = train_state.initial_state(model, optimizer, shardings, seed=4)
    abstract = train_state.abstract_state(boxed, optimizer, shardings)
    jax.tree.map(_assert_described, state, abstract)
    states.append(state)
  one, eight = states
  assert int(one.step) == 0
  jax.tree.map(np.testing.assert_array_equal, one, eight)
  table = eight.params["embedding"]["table"]
  assert {shard.data.shape for shard in table.addressable_shards} == {(10, 4)}
  # Drawn, not zeros, and of the seed.
  assert np.std(table) > 0.1


def _assert_described(array, abstract):
  assert (array.shape, array.dtype) == (abstract.shape, abstract.dtype)
  assert array.sharding == abstract.sharding
