import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe import fetched_experts
from taskmoe_jax.moe.fetched_experts import apply_experts

# The last choice is none: E, with a gate of 0.
EXPERTS = np.array([[3, 1], [1, 4], [0, 5]])


@pytest.mark.slow
@pytest.mark.parametrize("most_one_by_one", [0, 6])
def test_groups_through_their_experts_and_gradients(
  monkeypatch, most_one_by_one
):
  """As a batch and one by one; expert 1 has two groups, expert 2 none."""
  monkeypatch.setattr(fetched_experts, "_MOST_ONE_BY_ONE", most_one_by_one)
  draw = np.random.default_rng(2).normal
  x, gates = draw(size=(3, 4, 6)), draw(size=(3, 4, 2))
  gates[2, :, 1] = 0
  wi, wo = draw(size=(5, 6, 7)), draw(size=(5, 7, 6))

  def total(x, wi, wo, gates):
    weights = FeedForwardWeights((wi,), wo)
    experts = jnp.asarray(EXPERTS)
    y = apply_experts(x, weights, experts, gates, Activation.RELU)
    return (y @ jnp.arange(6.0)).sum(), y

  def by_hand(x, wi, wo, gates):
    y = jnp.zeros(x.shape)
    for group, choice in np.ndindex(3, 2):
      expert = min(EXPERTS[group, choice], 4)
      done = jnp.maximum(x[group] @ wi[expert], 0) @ wo[expert]
      y = y.at[group].add(gates[group, :, choice, None] * done)
    return (y @ jnp.arange(6.0)).sum(), y

  arguments = [jnp.asarray(a, jnp.float32) for a in (x, wi, wo, gates)]
  found, expected = (
    jax.jit(jax.grad(f, argnums=(0, 1, 2, 3), has_aux=True))(*arguments)
    for f in (total, by_hand)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  assert not np.any(found[0][1][2])
