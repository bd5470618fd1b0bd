"""Learning rates by step, those that the paper's "learning rate of 3.0, with
40K warm-up steps, decayed with inverse square root" can mean.

The text does not say which of the two; they go with different Adafactors:

  transformer_schedule  without parameter scale: peaks at 6.63e-4 for d = 512
  rsqrt_schedule        with parameter scale: 0.015, relative to the weights

`step` counts the updates done before, so the first update sees 0. Constant,
cosine and other schedules are optax's own.
"""

import jax.numpy as jnp
import optax

from taskmoe_jax.errors import TaskMoeError


def transformer_schedule(
  learning_rate: float, *, warmup_steps: int, embed_dim: int
) -> optax.Schedule:
  """Rises linearly, then falls with the inverse square root of the step.

  With t = step, w = warmup_steps and d = embed_dim, the rate is

    learning_rate * d^-0.5 * min((t + 1) * w^-1.5, (t + 1)^-0.5)

  which peaks at t + 1 = w. This is lingvo's `TransformerSchedule`, whose public
  WMT configuration has the paper's very numbers, 3.0 and 40,000.

  Raises:
    TaskMoeError: A value is not positive.
  """
  _check_positive(
    "transformer_schedule",
    learning_rate=learning_rate,
    warmup_steps=warmup_steps,
    embed_dim=embed_dim,
  )

  def schedule(step):
    t = jnp.asarray(step, jnp.float32) + 1
    return (
      learning_rate
      * embed_dim**-0.5
      * jnp.minimum(t * warmup_steps**-1.5, t**-0.5)
    )

  return schedule


def rsqrt_schedule(
  learning_rate: float, *, warmup_steps: int
) -> optax.Schedule:
  """Stays flat, then falls with the inverse square root of the step.

  The rate is learning_rate / sqrt(max(step, warmup_steps)): there is no rise
  although the parameter is called warm-up, in lingvo's `SqrtDecay` and in T5
  alike. GShard used 1.0 and 10,000 (PAPER.md 2.2).

  Raises:
    TaskMoeError: A value is not positive.
  """
  _check_positive(
    "rsqrt_schedule", learning_rate=learning_rate, warmup_steps=warmup_steps
  )

  def schedule(step):
    t = jnp.asarray(step, jnp.float32)
    return learning_rate * jnp.maximum(t, warmup_steps) ** -0.5

  return schedule


def _check_positive(owner: str, **values: int | float) -> None:
  for name, value in values.items():
    if not value > 0:
      raise TaskMoeError(f"{name}={value} is not above 0. Set {owner}.{name}.")
