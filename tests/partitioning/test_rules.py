import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import (
  Partitioning,
  activate,
  constrain,
  logical_rules,
)


def partitioning(data, expert, model, slices=1, fsdp=False):
  shape = MeshShape(slices=slices, data=data, expert=expert, model=model)
  return Partitioning(make_mesh(shape), fsdp)


@pytest.mark.parametrize("fsdp", [False, True])
def test_every_logical_axis_has_a_rule(fsdp):
  rules = logical_rules(fsdp=fsdp)
  assert rules.keys() == {*axes.PARAMETER_AXES, *axes.ACTIVATION_AXES}
  for mesh_axes in rules.values():
    names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
    assert set(names) <= set(axes.MESH_AXES)


def test_every_word_is_among_the_axes():
  words = {
    value
    for name, value in vars(axes).items()
    if name.isupper() and isinstance(value, str)
  }
  assert words == {
    *axes.PARAMETER_AXES,
    *axes.ACTIVATION_AXES,
    *axes.MESH_AXES,
  }


def test_fsdp_splits_widths_over_data_as_well():
  plain, fsdp = logical_rules(fsdp=False), logical_rules(fsdp=True)
  changed = {
    name: (plain[name], fsdp[name])
    for name in plain
    if plain[name] != fsdp[name]
  }
  assert changed == {
    "embed": (None, "data"),
    "fetched_mlp": (("expert", "model"), ("data", "expert", "model")),
  }


def test_specs_by_hand():
  parts = partitioning(2, 2, 2)
  assert parts.spec(("expert", "embed", "mlp")) == PartitionSpec(
    "expert", None, "model"
  )
  assert parts.spec(("act_batch", None, "act_vocab")) == PartitionSpec(
    ("slice", "data", "expert"), None, "model"
  )
  fsdp = partitioning(2, 2, 2, fsdp=True)
  assert fsdp.spec(("vocab", "embed")) == PartitionSpec("model", "data")
  assert fsdp.spec(("act_batch", "act_embed")) == PartitionSpec(
    ("slice", "data", "expert"), None
  )
  with pytest.raises(KeyError):
    parts.spec(("batch",))


@pytest.mark.parametrize(
  ("mesh", "shards"),
  [((8, 1, 1), 8), ((2, 2, 2), 4), ((1, 4, 2), 4), ((1, 2, 2, 2), 4)],
)
def test_rows_are_split_over_slices_data_and_expert(mesh, shards):
  parts = partitioning(*mesh)
  assert parts.num_row_shards == shards
  x = jax.device_put(jnp.zeros((24, 5)), parts.sharding("act_batch", None))
  assert {s.data.shape for s in x.addressable_shards} == {(24 // shards, 5)}
  x = jax.device_put(jnp.zeros((24, 5)), parts.replicated)
  assert {s.data.shape for s in x.addressable_shards} == {(24, 5)}


def test_a_parameter_that_divides():
  parts = partitioning(2, 2, 2, fsdp=True)
  sharding = parts.parameter_sharding(
    "experts/wi", (3, 4, 6, 10), ("layer", "expert", "embed", "mlp")
  )
  assert sharding.shard_shape((3, 4, 6, 10)) == (3, 2, 3, 5)


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    (
      (5, 6, 10),
      "parameter a/wi: axis 'expert' of size 5 does not divide over the 2"
      " devices of mesh axis 'expert'. Set MeshShape.expert to a divisor of 5.",
    ),
    (
      (6, 10, 8),
      "parameter a/wi: axis 'embed' of size 10 does not divide over the 4"
      " devices of mesh axis 'data'. Set MeshShape.data to a divisor of 10.",
    ),
  ],
)
def test_a_parameter_that_does_not_divide(shape, message):
  parts = partitioning(4, 2, 1, fsdp=True)
  with pytest.raises(TaskMoeError) as error:
    parts.parameter_sharding("a/wi", shape, ("expert", "embed", "mlp"))
  assert str(error.value) == message


def test_a_parameter_that_does_not_divide_over_several_axes():
  with pytest.raises(TaskMoeError) as error:
    partitioning(2, 2, 2).parameter_sharding(
      "a/wi", (3, 6, 10), ("fetched_expert", None, "fetched_mlp")
    )
  assert str(error.value) == (
    "parameter a/wi: axis 'fetched_mlp' of size 10 does not divide over the 2"
    " devices of mesh axis 'expert' and the 2 devices of mesh axis 'model'. Set"
    " MeshShape.expert and MeshShape.model to a divisor of 10."
  )


def laid_out(x, parts):
  def shapes(y):
    return {shard.data.shape for shard in y.addressable_shards}

  with activate(parts):
    return shapes(jax.jit(lambda x: constrain(x, "act_batch", "act_mlp"))(x))


def test_constrain_acts_on_the_active_mesh():
  x = jnp.zeros((16, 6))
  assert laid_out(x, partitioning(2, 2, 2)) == {(4, 3)}
  assert laid_out(x, partitioning(8, 1, 1)) == {(2, 6)}
  with activate(partitioning(8, 1, 1)):
    assert laid_out(x, partitioning(2, 2, 2)) == {(4, 3)}
    y = jax.jit(lambda x: constrain(x, "act_batch", None))(x)
    assert {shard.data.shape for shard in y.addressable_shards} == {(2, 6)}


def test_constrain_without_a_mesh_returns_what_it_is_given():
  x = jnp.zeros((3, 5))
  assert constrain(x, "act_batch", "act_mlp") is x
  one = Partitioning(make_mesh(MeshShape(), jax.devices()[:1]))
  with activate(one):
    assert constrain(x, "act_batch", "act_mlp") is x
  with pytest.raises(RuntimeError), activate(partitioning(8, 1, 1)):
    raise RuntimeError
  assert constrain(x, "act_batch", "act_mlp") is x


def test_constrain_names_every_axis():
  with pytest.raises(AssertionError, match="act_batch"):
    constrain(jnp.zeros((3, 5)), "act_batch")
