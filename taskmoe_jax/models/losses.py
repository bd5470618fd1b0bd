"""Cross-entropy with label smoothing, and accuracy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
  logits: Float[Array, "B T V"],
  targets: Int[Array, "B T"],
  *,
  label_smoothing: float,
) -> Float[Array, "B T"]:
  """Cross-entropy, in nats, of each target token.

  With label smoothing s the wanted distribution is (1 - s) on the target and s
  spread evenly over the whole vocabulary (Szegedy et al., arXiv 1512.00567,
  section 7; tensor2tensor and lingvo do the same up to a constant).
  """
  log_partition = jax.nn.logsumexp(logits, axis=-1)
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  wanted = picked
  if label_smoothing:
    wanted = (1 - label_smoothing) * picked + label_smoothing * jnp.mean(
      logits, axis=-1
    )
  return log_partition - wanted


def correct(
  logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """1 where the most likely token is the target, else 0."""
  return (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
