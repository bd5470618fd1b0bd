"""What training minimizes: cross-entropy and z-loss; and accuracy."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from taskmoe_jax.errors import TaskMoeError, check_at_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """The loss of a target token; routing losses come on top of it.

  Attributes:
    label_smoothing: See `cross_entropy`.
    z_loss_weight: Times the square of the logits' log-partition. It keeps that
      near 0, where bfloat16 is precise, so that logits do not drift: 1e-4 in
      PaLM (arXiv 2204.02311, section 5) and T5X, 0 for none.
  """

  label_smoothing: float
  z_loss_weight: float

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise TaskMoeError(
        f"label_smoothing={self.label_smoothing} is outside [0, 1). Set"
        " LABEL_SMOOTHING."
      )
    check_at_least(0, "Objective", z_loss_weight=self.z_loss_weight)


def cross_entropy(
  logits: Float[Array, "B T V"],
  targets: Int[Array, "B T"],
  *,
  label_smoothing: float,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """Cross-entropy, in nats, and log-partition of each target token.

  With label smoothing s the target distribution is (1 - s) on the target and s
  spread evenly over the whole vocabulary (Szegedy et al., arXiv 1512.00567,
  section 7; tensor2tensor and lingvo do the same up to a constant).
  """
  log_partition = jax.nn.logsumexp(logits, axis=-1)
  # By comparing: the gradient of a lookup is written to an array of zeros.
  tokens = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
  picked = jnp.where(tokens == targets[..., None], logits, 0.0).sum(-1)
  wanted = picked
  if label_smoothing:
    wanted = (1 - label_smoothing) * picked + label_smoothing * jnp.mean(
      logits, axis=-1
    )
  return log_partition - wanted, log_partition


def correct(
  logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """1 where the most likely token is the target, else 0."""
  return (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
