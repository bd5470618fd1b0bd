"""One training step, a pure function of state and batch."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.losses import correct, cross_entropy
from taskmoe_jax.models.transformer import Batch, Transformer
from taskmoe_jax.moe.balancing import balanced_bias
from taskmoe_jax.moe.statistics import RoutingStatistics
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.optimizers import Optimizer
from taskmoe_jax.train.state import TrainState


@flax.struct.dataclass
class StepMetrics:
  """What one step measured; sums where a mean over steps needs them.

  Arrays of NumPy once they have been fetched from the devices.

  Attributes:
    loss: Sum of the cross-entropy (label-smoothed), in nats.
    correct: How many target tokens were the most likely ones.
    tokens: How many target tokens there were.
    pair_loss: `loss` for each pair.
    pair_tokens: `tokens` for each pair.
    gradient_norm: Global, before any clipping.
    routing: Statistics by stack; a leading axis counts blocks.
  """

  loss: Float[Array | np.ndarray, ""]
  correct: Float[Array | np.ndarray, ""]
  tokens: Float[Array | np.ndarray, ""]
  pair_loss: Float[Array | np.ndarray, "P"]
  pair_tokens: Float[Array | np.ndarray, "P"]
  gradient_norm: Float[Array | np.ndarray, ""]
  routing: Mapping[str, RoutingStatistics]


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """Computes loss and gradients of a batch and applies the optimizer.

  Attributes:
    model: The mixture.
    optimizer: Called once a step.
    task_space: Tells tasks and pairs of rows from their languages.
    rows_per_task_group: Rows stand in groups of this many of one task each.
    label_smoothing: See `models.losses.cross_entropy`.
    seed: Of dropout.
  """

  model: Transformer
  optimizer: Optimizer
  task_space: TaskSpace
  rows_per_task_group: int
  label_smoothing: float
  seed: int

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise TaskMoeError(
        f"label_smoothing={self.label_smoothing} is outside [0, 1). Set"
        " LABEL_SMOOTHING."
      )

  def __call__(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, StepMetrics]:
    """Returns the next state, and metrics of the state given."""
    key = jax.random.fold_in(jax.random.key(self.seed), state.step)
    (_, metrics), gradients = jax.value_and_grad(self._loss, has_aux=True)(
      state.params, batch, key
    )
    metrics = metrics.replace(gradient_norm=optax.tree.norm(gradients))
    updates, optimizer_state = self.optimizer.transformation.update(
      gradients, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params = self._balanced(params, state.params, metrics.routing)
    return TrainState(state.step + 1, params, optimizer_state), metrics

  def _loss(
    self, params: PyTree, batch: Batch, key: jax.Array
  ) -> tuple[Float[Array, ""], StepMetrics]:
    """Mean cross-entropy of a target token, plus weighted routing losses."""
    languages = batch["source_language"], batch["target_language"]
    task_ids = jnp.asarray(self.task_space.task_table)[languages]
    pair_ids = jnp.asarray(self.task_space.pair_table)[languages]
    logits, routing = self.model.apply(
      {"params": params},
      batch,
      task_ids,
      train=True,
      rows_per_task_group=self.rows_per_task_group,
      rngs={"dropout": key},
    )
    weights = batch["decoder_loss_weights"]
    targets = batch["decoder_target_tokens"]
    losses = weights * cross_entropy(
      logits, targets, label_smoothing=self.label_smoothing
    )

    def by_pair(rows):
      return jax.ops.segment_sum(rows, pair_ids, len(self.task_space.pairs))

    metrics = StepMetrics(
      loss=losses.sum(),
      correct=(weights * correct(logits, targets)).sum(),
      tokens=weights.sum(),
      pair_loss=by_pair(losses.sum(1)),
      pair_tokens=by_pair(weights.sum(1)),
      gradient_norm=jnp.zeros(()),
      routing=routing,
    )
    loss = metrics.loss / jnp.maximum(metrics.tokens, 1.0)
    return loss + self._routing_loss(routing), metrics

  def _balanced(
    self,
    params: PyTree,
    before: PyTree,
    routing: Mapping[str, RoutingStatistics],
  ) -> PyTree:
    """Moves the balance biases, whatever the optimizer has made of them."""
    for name, statistics in routing.items():
      stack = getattr(self.model.config, name)
      rate = stack.moe.balance_bias_rate
      if rate:
        layer = f"layer_{stack.block_size - 1}"
        path = (name, "blocks", layer, "moe", "router", "balance_bias")
        bias = functools.reduce(operator.getitem, path, before)
        params = _with_leaf(
          params, path, balanced_bias(bias, statistics.load, rate)
        )
    return params

  def _routing_loss(
    self, routing: Mapping[str, RoutingStatistics]
  ) -> Float[Array, ""]:
    total = jnp.zeros(())
    for name, statistics in routing.items():
      moe = getattr(self.model.config, name).moe
      total += moe.balance_loss_weight * statistics.balance_loss.sum()
      total += moe.z_loss_weight * statistics.z_loss.sum()
    return total


def _with_leaf(
  tree: Mapping, path: tuple[str, ...], leaf: jax.Array
) -> dict[str, Any]:
  """A copy of a tree with another array in one place."""
  name, *rest = path
  below = _with_leaf(tree[name], tuple(rest), leaf) if rest else leaf
  return {**tree, name: below}


def compile_step(
  step: Callable, shardings: TrainState, batch_sharding: jax.sharding.Sharding
) -> Callable:
  """Jits a step; the old state's memory is given to the new one.

  Args:
    step: Such as `TrainStep`.
    shardings: Where the state lies.
    batch_sharding: Where every array of a batch lies.
  """
  return jax.jit(
    step,
    in_shardings=(shardings, batch_sharding),
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
