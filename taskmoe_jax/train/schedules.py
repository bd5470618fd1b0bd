"""Learning rates by step.

The paper's "learning rate of 3.0, with 40K warm-up steps, decayed with inverse
square root" can mean either of two, which go with different Adafactors:

  transformer_schedule  without parameter scale: peaks at 6.63e-4 for d = 512
  rsqrt_schedule        with parameter scale: 0.015, relative to the weights

`step` counts the updates done before, so the first update sees 0. Cosine and
"warm-up, stable, decay" are composed of optax's schedules, whose others can be
bound as well.
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
  alike. GShard used 1.0 and 10,000 (docs/design/paper.md).

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


def cosine_schedule(
  learning_rate: float, *, warmup_steps: int, train_steps: int, final: float
) -> optax.Schedule:
  """Rises linearly from 0, then falls along half a cosine.

  Args:
    learning_rate: The peak, at step `warmup_steps`.
    warmup_steps: Steps of the rise; may be 0.
    train_steps: The step at which the decay ends; the rate stays there.
    final: The rate there, as a fraction of the peak.

  Raises:
    TaskMoeError: A value is out of its range.
  """
  _check_phases("cosine_schedule", learning_rate, final)
  if not 0 <= warmup_steps < train_steps:
    raise TaskMoeError(
      f"warmup_steps={warmup_steps} is not within train_steps={train_steps}."
      " Set cosine_schedule.warmup_steps or TRAIN_STEPS."
    )
  return optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else learning_rate,
    learning_rate,
    warmup_steps,
    train_steps,
    learning_rate * final,
  )


def wsd_schedule(
  learning_rate: float,
  *,
  warmup_steps: int,
  train_steps: int,
  decay_steps: int,
  final: float,
) -> optax.Schedule:
  """Warm-up, stable, decay: a rise, a plateau and a fall, all linear.

  The plateau may be left, or made longer, at any time: a run resumes from a
  checkpoint before the decay with other `train_steps` (MiniCPM, arXiv
  2404.06395; Hägele et al., arXiv 2405.18392, whose decay is linear too).

  Args:
    learning_rate: The rate of the plateau.
    warmup_steps: Steps of the rise from 0; may be 0.
    train_steps: The step at which the decay ends; the rate stays there.
    decay_steps: Steps of the decay.
    final: The rate after it, as a fraction of the plateau's.

  Raises:
    TaskMoeError: A value is out of its range.
  """
  _check_phases("wsd_schedule", learning_rate, final)
  fall = train_steps - decay_steps
  if warmup_steps < 0 or decay_steps < 1 or fall < warmup_steps:
    raise TaskMoeError(
      f"warmup_steps={warmup_steps} and decay_steps={decay_steps} do not fit"
      f" into train_steps={train_steps}. Set wsd_schedule.warmup_steps,"
      " wsd_schedule.decay_steps or TRAIN_STEPS."
    )
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, learning_rate, warmup_steps)
      if warmup_steps
      else optax.constant_schedule(learning_rate),
      optax.constant_schedule(learning_rate),
      optax.linear_schedule(learning_rate, learning_rate * final, decay_steps),
    ],
    [warmup_steps, fall],
  )


def _check_phases(owner: str, learning_rate: float, final: float) -> None:
  _check_positive(owner, learning_rate=learning_rate)
  if not 0 <= final <= 1:
    raise TaskMoeError(
      f"final={final} is outside [0, 1], the shares of the learning rate. Set"
      f" {owner}.final."
    )


def _check_positive(owner: str, **values: int | float) -> None:
  for name, value in values.items():
    if not value > 0:
      raise TaskMoeError(f"{name}={value} is not above 0. Set {owner}.{name}.")
