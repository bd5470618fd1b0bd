"""One training step, a pure function of state and batch."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.layers.noise import rows_at_hand
from taskmoe_jax.models.losses import Objective, correct, cross_entropy
from taskmoe_jax.models.transformer import (
  Batch,
  Transformer,
  source_segments,
  target_segments,
)
from taskmoe_jax.moe.gates import balanced_bias
from taskmoe_jax.moe.statistics import RoutingStatistics
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.optimizers import Optimizer
from taskmoe_jax.train.step.gradient_statistics import (
  Histogram,
  gradient_norms,
  histograms_every,
)
from taskmoe_jax.train.step.microbatches import (
  rows_together,
  sum_over_microbatches,
)
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.vocabulary import PAD_ID


def row_fill(batch: Batch) -> Float[Array, ""]:
  """Mean share of places that hold a token, in the fuller side of each row.

  It is `TrainBatches.stats["row_fill"]` of one batch. Counted in the step, it
  covers just the batches that were trained on, of all hosts, and not those that
  were read ahead.
  """
  sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
  fills = [(tokens != PAD_ID).mean(axis=1) for tokens in sides]
  return jnp.maximum(*fills).mean()


@flax.struct.dataclass
class StepMetrics:
  """What one step measured; sums where a mean over steps needs them.

  Arrays of NumPy once they have been fetched from the devices.

  Attributes:
    loss: Sum of the cross-entropy (label-smoothed), in nats.
    correct: Number of target tokens that were the most likely ones.
    tokens: Number of target tokens.
    pair_loss: `loss` for each pair.
    pair_tokens: `tokens` for each pair.
    z_loss: Sum of the squares of the logits' log-partitions, not weighted.
    row_fill: Share of places that hold a token, in the fuller side of each row.
    gradient_norm: Global norm, before any clipping.
    gradient_norms: Norm of each group of parameters; see `gradient_statistics`.
    learning_rate: That of the update, or of the next one if this was skipped;
      None if the optimizer has no schedule to say it.
    skipped: 1 if loss or gradients were not finite and so nothing was updated.
    routing: Statistics by stack; a leading axis counts blocks.
    gradients: Histograms of the gradients of each parameter, at the steps that
      ask for them.
  """

  loss: Float[Array | np.ndarray, ""]
  correct: Float[Array | np.ndarray, ""]
  tokens: Float[Array | np.ndarray, ""]
  pair_loss: Float[Array | np.ndarray, "P"]
  pair_tokens: Float[Array | np.ndarray, "P"]
  z_loss: Float[Array | np.ndarray, ""]
  row_fill: Float[Array | np.ndarray, ""]
  gradient_norm: Float[Array | np.ndarray, ""]
  gradient_norms: Mapping[str, Float[Array | np.ndarray, ""]]
  learning_rate: Float[Array | np.ndarray, ""] | None
  skipped: Float[Array | np.ndarray, ""]
  routing: Mapping[str, RoutingStatistics]
  gradients: Mapping[str, Histogram] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """Computes loss and gradients of a batch and applies the optimizer.

  With microbatches the loss is still the mean over the target tokens of the
  whole batch, and every row gets the noise that it would get without. Two
  things are per microbatch: the balance loss, which is not a mean over tokens
  (the mean of the microbatches' balance losses is taken, weighted by their
  tokens), and the places that the tokens of a group compete for under a
  capacity.

  A step whose loss or gradients are not finite changes nothing but the count of
  steps and that of skipped updates: neither parameters, nor moments, nor
  balance biases, nor the place in the learning rate's schedule, which counts
  updates.

  Attributes:
    model: The mixture.
    optimizer: Called once a step.
    task_space: Tells tasks and pairs of rows from their languages.
    rows_per_task_group: Rows come in groups of this many, of one task each.
    objective: The loss of a token.
    seed: Seed of dropout.
    num_microbatches: Number of parts in which a batch is computed.
    histograms_every: Steps between histograms of gradients; None for none.
  """

  model: Transformer
  optimizer: Optimizer
  task_space: TaskSpace
  rows_per_task_group: int
  objective: Objective
  seed: int
  num_microbatches: int = 1
  histograms_every: int | None = None

  def __call__(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, StepMetrics]:
    """Returns the next state, and metrics of the given state."""
    gradients, metrics = self._gradients(state, batch)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(metrics.loss) & jnp.isfinite(norm)
    updates, optimizer_state = self.optimizer.transformation.update(
      gradients, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params = self._balanced(params, state.params, metrics.routing)
    params, optimizer_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, optimizer_state),
      (state.params, state.optimizer_state),
    )
    metrics = dataclasses.replace(
      metrics,
      row_fill=row_fill(batch),
      gradient_norm=norm,
      gradient_norms=gradient_norms(gradients),
      learning_rate=self._learning_rate(state),
      skipped=(~finite).astype(jnp.float32),
      gradients=histograms_every(
        self.histograms_every, state.step + 1, gradients
      ),
    )
    skipped = state.skipped + (~finite).astype(jnp.int32)
    return TrainState(state.step + 1, params, optimizer_state, skipped), metrics

  def _learning_rate(self, state: TrainState) -> Float[Array, ""] | None:
    schedule = self.optimizer.schedule
    if schedule is None:
      return None
    return jnp.asarray(schedule(state.step - state.skipped), jnp.float32)

  def _gradients(
    self, state: TrainState, batch: Batch
  ) -> tuple[PyTree, StepMetrics]:
    key = jax.random.fold_in(jax.random.key(self.seed), state.step)
    together = rows_together(
      len(batch["source_language"]),
      self.num_microbatches,
      self.rows_per_task_group,
    )
    totals = _BatchTotals.of(batch)

    def compute(rows, numbers):
      with rows_at_hand(numbers):
        (_, metrics), gradients = jax.value_and_grad(self._loss, has_aux=True)(
          state.params, rows, key, totals, together
        )
      return gradients, metrics

    return sum_over_microbatches(
      compute,
      batch,
      num_microbatches=self.num_microbatches,
      together=together,
      like=state.params,
    )

  def _loss(
    self,
    params: PyTree,
    batch: Batch,
    key: jax.Array,
    totals: "_BatchTotals",
    rows_per_task_group: int,
  ) -> tuple[Float[Array, ""], StepMetrics]:
    """What these rows add to the loss of the whole batch."""
    languages = batch["source_language"], batch["target_language"]
    task_ids = jnp.asarray(self.task_space.task_table)[languages]
    pair_ids = jnp.asarray(self.task_space.pair_table)[languages]
    logits, routing = cast(
      tuple[jax.Array, Mapping[str, RoutingStatistics]],
      self.model.apply(
        {"params": params},
        batch,
        task_ids,
        train=True,
        rows_per_task_group=rows_per_task_group,
        rngs={"dropout": key},
      ),
    )
    weights = batch["decoder_loss_weights"]
    targets = batch["decoder_target_tokens"]
    losses, log_partition = cross_entropy(
      logits, targets, label_smoothing=self.objective.label_smoothing
    )
    losses *= weights
    total_loss = losses.sum()
    total_z_loss = (weights * jnp.square(log_partition)).sum()

    def by_pair(rows):
      return jax.ops.segment_sum(rows, pair_ids, len(self.task_space.pairs))

    zero = jnp.zeros(())
    metrics = StepMetrics(
      loss=total_loss,
      correct=(weights * correct(logits, targets)).sum(),
      tokens=weights.sum(),
      pair_loss=by_pair(losses.sum(1)),
      pair_tokens=by_pair(weights.sum(1)),
      z_loss=total_z_loss,
      row_fill=zero,
      gradient_norm=zero,
      gradient_norms={},
      learning_rate=zero,
      skipped=zero,
      routing=totals.shares(routing),
    )
    loss = total_loss + self.objective.z_loss_weight * total_z_loss
    loss /= jnp.maximum(totals.loss_weight, 1.0)
    return loss + self._routing_loss(metrics.routing), metrics

  def _balanced(
    self,
    params: PyTree,
    before: PyTree,
    routing: Mapping[str, RoutingStatistics],
  ) -> PyTree:
    """Moves the balance biases, in place of what the optimizer did to them."""
    for name, statistics in routing.items():
      stack = getattr(self.model.config, name)
      rate = stack.moe.balance_bias_rate
      if rate:
        layer = stack.moe_layer
        path = (name, "blocks", layer, "moe", "router", "balance_bias")
        bias = functools.reduce(operator.getitem, path, before)
        params = _with_leaf(
          params, path, balanced_bias(bias, jnp.asarray(statistics.load), rate)
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


@flax.struct.dataclass
class _BatchTotals:
  """Totals of a whole batch, to weight its microbatches by.

  Attributes:
    loss_weight: Sum of the weights of all target tokens.
    tokens: Number of routed tokens, by stack.
  """

  loss_weight: Float[Array, ""]
  tokens: Mapping[str, Int[Array, ""]]

  @classmethod
  def of(cls, batch: Batch) -> "_BatchTotals":
    segments = {
      "encoder": source_segments(batch),
      "decoder": target_segments(batch),
    }
    return cls(
      batch["decoder_loss_weights"].sum(),
      {name: (ids > 0).sum() for name, ids in segments.items()},
    )

  def shares(
    self, routing: Mapping[str, RoutingStatistics]
  ) -> dict[str, RoutingStatistics]:
    """Turns losses, which are means over tokens, into shares that add up."""
    shares = {}
    for name, statistics in routing.items():
      tokens = statistics.task_tokens.sum(-1)
      share = tokens / jnp.maximum(self.tokens[name], 1)
      shares[name] = dataclasses.replace(
        statistics,
        balance_loss=share * statistics.balance_loss,
        z_loss=share * statistics.z_loss,
      )
    return shares


def _with_leaf(
  tree: Mapping, path: tuple[str, ...], leaf: jax.Array
) -> dict[str, Any]:
  """A copy of a tree with another array in one place."""
  name, *rest = path
  below = _with_leaf(tree[name], tuple(rest), leaf) if rest else leaf
  return {**tree, name: below}
