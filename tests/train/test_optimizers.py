"""A stack of matrices trains exactly like the matrices by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.schedules import rsqrt_schedule

SCHEDULE = rsqrt_schedule(0.5, warmup_steps=2)

# Matrices of `experts` and `table` are large enough to be factored, those of
# `gate` are not: optax alone would factor it over its 140 experts.
SHAPES = {
  "experts": (2, 3, 130, 129),
  "gate": (140, 131, 5),
  "norm": (3, 7),
  "table": (150, 133),
}
AXES = {
  "experts": ("layer", "expert", "embed", "mlp"),
  "gate": ("expert", "embed", "kv"),
  "norm": ("layer", "embed"),
  "table": ("vocab", "embed"),
}
STACKED = {"experts": 2, "gate": 1, "norm": 1, "table": 0}


def draw(seed):
  """Arrays whose matrices differ a lot in size, as experts' gradients do."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for name, shape in SHAPES.items():
    depth = STACKED[name]
    sizes = 10.0 ** rng.uniform(-3, 1, shape[:depth])
    sizes = sizes.reshape(sizes.shape + (1,) * (len(shape) - depth))
    arrays[name] = jnp.asarray(sizes * rng.normal(size=shape), jnp.float32)
  return arrays


def train(transformation, params, steps_of_grads):
  state = transformation.init(params)
  step = jax.jit(transformation.update)
  for grads in steps_of_grads:
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def slices(arrays, index):
  """The first or last matrix of every stack."""
  return {name: a[(index,) * STACKED[name]] for name, a in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize("parameter_scale", [False, True])
def test_adafactor_of_a_stack_is_adafactor_of_each_matrix(parameter_scale):
  options = {"momentum": 0.9}
  stacked = optimizers.adafactor(
    SCHEDULE, parameter_scale=parameter_scale, stacked_axes=STACKED, **options
  ).transformation
  alone = optax.adafactor(
    SCHEDULE, multiply_by_parameter_scale=parameter_scale, **options
  )
  start, *grads = map(draw, range(4))
  trained = train(stacked, start, grads)
  for index in (0, -1):
    expected = train(
      alone, slices(start, index), [slices(g, index) for g in grads]
    )
    for name, values in slices(trained, index).items():
      moved = np.abs(expected[name] - slices(start, index)[name]).max()
      # Float rounding only: sums of a stack are taken in another order.
      np.testing.assert_allclose(
        values, expected[name], rtol=1e-6, atol=1e-5 * moved
      )


def test_nothing_stacked_is_optax():
  start, *grads = map(draw, range(3))
  transformation, _ = optimizers.adafactor(SCHEDULE, parameter_scale=True)
  trained = train(transformation, start, grads)
  expected = train(optax.adafactor(SCHEDULE), start, grads)
  for name in SHAPES:
    np.testing.assert_allclose(trained[name], expected[name], rtol=1e-5)


def test_adafactor_by_hand():
  # The first update of what is not factored is the sign of its gradient, times
  # the rate and the root mean square of the weights: 5 in one layer, 1 in the
  # other. Then the first layer's gradient is ten times larger: with a decay d
  # of 1 - 2^-0.8 its update would be 10 / sqrt(d + 100 (1 - d)) = 1.31, and is
  # clipped to 1. The second layer's is zero: over both, nothing was clipped.
  params = {"norm": jnp.array([[5.0, -5.0, 5.0], [1.0, 1.0, 1.0]])}
  grads = {"norm": jnp.array([[0.1, 0.1, -0.1], [7.0, 7.0, 7.0]])}
  optimizer = optimizers.adafactor(
    optax.constant_schedule(0.01),
    parameter_scale=True,
    stacked_axes={"norm": 1},
  )
  state = optimizer.transformation.init(params)
  updates, state = optimizer.transformation.update(grads, state, params)
  expected = [[-0.05, -0.05, 0.05], [-0.01, -0.01, -0.01]]
  np.testing.assert_allclose(updates["norm"], expected, rtol=1e-5)
  larger = {"norm": grads["norm"] * jnp.array([[10.0], [0.0]])}
  updates, state = optimizer.transformation.update(larger, state, params)
  expected = [[-0.05, -0.05, 0.05], [0.0, 0.0, 0.0]]
  np.testing.assert_allclose(updates["norm"], expected, rtol=1e-5)


def test_experts_and_layers_are_never_factored_over():
  optimizer = optimizers.adafactor(
    SCHEDULE, parameter_scale=False, stacked_axes=STACKED
  )
  _, states = jax.eval_shape(optimizer.transformation.init, draw(0))
  moments = {name: state[0] for name, state in states.items()}
  assert moments["experts"].v_row.shape == (2, 3, 129)
  assert moments["experts"].v_col.shape == (2, 3, 130)
  assert moments["gate"].v.shape == (140, 131, 5)
  assert moments["table"].v_row.shape == (133,)


@pytest.mark.slow
def test_the_global_norm_is_clipped_before_all_else():
  # Gradients (3, 4) and (12): norm 13. After the first update the second
  # moment is the square of what Adafactor saw.
  grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])}
  params = jax.tree.map(jnp.ones_like, grads)

  def moment(clip):
    transformation, _ = optimizers.adafactor(
      SCHEDULE,
      parameter_scale=False,
      clip_global_norm=clip,
      stacked_axes={"a": 0, "b": 1},
    )
    _, state = transformation.update(grads, transformation.init(params), params)
    return {name: leaf[0].v for name, leaf in state[1].items()}

  np.testing.assert_allclose(moment(None)["a"], [9.0, 16.0], rtol=1e-6)
  np.testing.assert_allclose(
    moment(1.3)["a"], [3.0**2 / 100, 4.0**2 / 100], rtol=1e-5
  )
  np.testing.assert_allclose(moment(1.3)["b"], [[12.0**2 / 100]], rtol=1e-5)
  np.testing.assert_allclose(moment(14.0)["b"], [[144.0]], rtol=1e-6)


@pytest.mark.slow
def test_adamw_by_hand():
  # Adam's first update is the sign of the gradient, without parameter scale;
  # decay takes 0.1 of the weight, in matrices and not in stacked norms.
  params = {"norm": jnp.full((2, 3), 4.0), "wi": jnp.full((2, 3, 5), 4.0)}
  grads = {"norm": jnp.full((2, 3), -0.3), "wi": jnp.full((2, 3, 5), 7.0)}
  optimizer = optimizers.adamw(
    optax.constant_schedule(0.01),
    b1=0.9,
    b2=0.98,
    eps=1e-9,
    weight_decay=0.1,
    stacked_axes={"norm": 1, "wi": 1},
  )
  trained = train(optimizer.transformation, params, [grads])
  np.testing.assert_allclose(trained["norm"], 4.0 + 0.01, rtol=1e-6)
  np.testing.assert_allclose(
    trained["wi"], 4.0 - 0.01 * (1 + 0.1 * 4.0), rtol=1e-6
  )


@pytest.mark.slow
def test_adamw_is_optax():
  start, *grads = map(draw, range(4))
  options = {"b1": 0.8, "b2": 0.95, "eps": 1e-6}
  transformation, schedule = optimizers.adamw(
    SCHEDULE, **options, clip_global_norm=0.5, stacked_axes=STACKED
  )
  expected = train(
    optax.chain(
      optax.clip_by_global_norm(0.5),
      optax.adamw(SCHEDULE, **options, weight_decay=0.0),
    ),
    start,
    grads,
  )
  trained = train(transformation, start, grads)
  for name in SHAPES:
    # Steps are near 1, and float32 keeps 6e-8 of that.
    np.testing.assert_allclose(
      trained[name], expected[name], rtol=1e-6, atol=5e-7
    )
  assert schedule is SCHEDULE


@pytest.mark.slow
def test_the_schedule_counts_updates():
  params = {"norm": jnp.full((2, 3), 4.0)}
  transformation, schedule = optimizers.adafactor(
    lambda step: 0.1 + jnp.float32(step),
    parameter_scale=False,
    stacked_axes={"norm": 1},
  )
  state = transformation.init(params)
  for step in range(3):
    updates, state = transformation.update(params, state, params)
    np.testing.assert_allclose(updates["norm"], -schedule(step), rtol=1e-5)


@pytest.mark.parametrize(
  ("names", "count"),
  [
    (("layer", "expert", "embed", "mlp"), 2),
    (("expert", "mlp", "embed"), 1),
    (("layer", "embed", "expert"), 1),
    (("layer",), 1),
    (("task", "embed"), 0),
    ((None, "layer"), 0),
    ((), 0),
  ],
)
def test_num_stacked_axes(names, count):
  assert optimizers.num_stacked_axes(names) == count


def _axes_of_state(transformation):
  params = draw(0)
  state = jax.eval_shape(transformation.init, params)
  return optimizers.state_axes(state, params, AXES)


def test_state_axes():
  optimizer = optimizers.adafactor(
    SCHEDULE,
    parameter_scale=True,
    momentum=0.9,
    clip_global_norm=1.0,
    stacked_axes=STACKED,
  )
  names = _axes_of_state(optimizer.transformation)
  _, by_param = names
  moment, momentum = by_param["experts"][0], by_param["experts"][4]
  assert momentum.ema == ("layer", "expert", "embed", "mlp")
  assert moment.v_row == ("layer", "expert", None)
  assert moment.count == ("layer", "expert")
  assert by_param["norm"][0].v == ("layer", "embed")
  assert by_param["table"][0].v_row == (None,)
  assert by_param["table"][0].count == ()


@pytest.mark.parametrize(
  "optimizer",
  [
    optimizers.adafactor(SCHEDULE, parameter_scale=True, stacked_axes=STACKED),
    optimizers.adamw(SCHEDULE, b1=0.9, b2=0.98, eps=1e-9, stacked_axes=STACKED),
  ],
)
def test_state_axes_name_every_axis(optimizer):
  names = _axes_of_state(optimizer.transformation)
  state = optimizer.transformation.init(draw(0))
  ranks = jax.tree.map(lambda array, n: array.ndim - len(n), state, names)
  assert set(jax.tree.leaves(ranks)) == {0}


def test_state_axes_of_any_transformation():
  """Moments lie as their parameters, wherever in the state they are."""
  names = _axes_of_state(optax.lion(0.1))
  assert names[0].count == ()
  assert names[0].mu == AXES
  # Labels named like parameters own nothing.
  labels = dict.fromkeys(SHAPES, "table") | {"norm": "norm"}
  transformations = {"table": optax.adam(0.1), "norm": optax.sgd(0.1, 0.9)}
  names = _axes_of_state(
    optax.MultiSteps(
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(transformations, labels),
      ),
      every_k_schedule=2,
    )
  )
  assert names.acc_grads == AXES
  assert names.mini_step == ()
  inner = names.inner_opt_state[1].inner_states
  adam = inner["table"].inner_state[0]
  assert adam.nu["experts"] == AXES["experts"]
  assert adam.count == ()
  assert inner["norm"].inner_state[0].trace["norm"] == AXES["norm"]


def test_state_axes_of_what_belongs_to_no_parameter():
  """Replicated, whatever its shape; and a tuple without arrays stays one."""

  def init(params):
    return {"sums": jnp.zeros((7, 3)), "none": (), "norm": jnp.zeros((5,))}

  names = _axes_of_state(optax.GradientTransformation(init, None))
  assert names == {"sums": (None, None), "none": (), "norm": (None,)}
  # Rows of an Adafactor that sees stacks whole keep the stack they begin with.
  names = _axes_of_state(optax.adafactor(0.1))
  assert names[0].v_row["experts"] == ("layer", "expert", None)
  assert names[0].v_row["table"] == (None,)


def test_what_a_recipe_may_bind():
  lion = optax.lion(0.1)
  assert optimizers.make_optimizer(lambda: lion, STACKED) == (lion, None)
  several = optax.MultiSteps(lion, 2)
  assert optimizers.make_optimizer(lambda: several, STACKED) == (several, None)
  found = optimizers.make_optimizer(
    lambda stacked_axes: optimizers.Optimizer(lion, stacked_axes), STACKED
  )
  assert found == (lion, STACKED)
  message = (
    r"OPTIMIZER returned 0\.1, which is neither an optax transformation nor a"
    r" taskmoe_jax\.train\.optimizers\.Optimizer\. Set OPTIMIZER to a function"
    r" that returns one, such as @optimizers\.adafactor or @optax\.lion\."
  )
  with pytest.raises(TaskMoeError, match=message):
    optimizers.make_optimizer(lambda: 0.1, STACKED)


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.5])
def test_momentum_out_of_range(momentum):
  message = rf"momentum={momentum} is not between 0 and 1. Set adafactor.mom"
  with pytest.raises(TaskMoeError, match=message):
    optimizers.adafactor(SCHEDULE, parameter_scale=True, momentum=momentum)


def test_clipping_out_of_range():
  message = r"clip_global_norm=0.0 is not above 0. Set adafactor.clip_global_no"
  with pytest.raises(TaskMoeError, match=message):
    optimizers.adafactor(SCHEDULE, parameter_scale=True, clip_global_norm=0.0)
  message = r"clip_global_norm=-1.0 is not above 0. Set adamw.clip_global_norm"
  with pytest.raises(TaskMoeError, match=message):
    optimizers.adamw(SCHEDULE, b1=0.9, b2=0.98, eps=1e-9, clip_global_norm=-1.0)


@pytest.mark.expensive("it compiles models")
def test_first_moments_in_bfloat16():
  """Half the memory, and second moments stay as they are."""
  start, grads = map(draw, range(2))
  for optimizer in (
    optimizers.adamw(
      SCHEDULE, b1=0.9, b2=0.98, eps=1e-9, moment_dtype="bfloat16"
    ),
    optimizers.adafactor(
      SCHEDULE, parameter_scale=True, momentum=0.9, moment_dtype="bfloat16"
    ),
  ):
    transformation = optimizer.transformation
    _, states = transformation.update(grads, transformation.init(start), start)
    found = {(leaf.dtype.name, leaf.shape) for leaf in jax.tree.leaves(states)}
    assert ("bfloat16", SHAPES["table"]) in found
    assert any(dtype == "float32" and shape for dtype, shape in found)
  message = "unknown moment_dtype 'float16': .* Set adamw.moment_dtype"
  with pytest.raises(TaskMoeError, match=message):
    optimizers.adamw(
      SCHEDULE, b1=0.9, b2=0.98, eps=1e-9, moment_dtype="float16"
    )
