"""An MoE layer in plain NumPy loops, with its gradients: written from the
definition `y = sum_k gate_k · FFN_k(x)`, not from our code."""

import dataclasses

import numpy as np

from taskmoe_jax.layers.feed_forward import Activation


def gelu(a):
  """The tanh-GELU and its derivative."""
  inner = np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)
  slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * a**2)
  tanh = np.tanh(inner)
  value = 0.5 * a * (1 + tanh)
  return value, 0.5 * (1 + tanh) + 0.5 * a * (1 - tanh**2) * slope


@dataclasses.dataclass
class Outcome:
  """Outputs, and gradients of `sum(covector · y)`.

  Attributes:
    y: `[B, L, D]`.
    x: `[B, L, D]`.
    gates: `[B, L, K]`.
    wi: As the weights.
    wo: As the weights.
  """

  y: np.ndarray
  x: np.ndarray
  gates: np.ndarray
  wi: list[np.ndarray]
  wo: np.ndarray


def mixture(x, experts, gates, kept, weights, activation, covector) -> Outcome:
  """Runs every kept choice `[B, L, K]` by itself, in float64."""
  x, gates, covector = (np.asarray(a, np.float64) for a in (x, gates, covector))
  wi = [np.asarray(w, np.float64) for w in weights.wi]
  wo = np.asarray(weights.wo, np.float64)
  found = Outcome(
    y=np.zeros_like(x),
    x=np.zeros_like(x),
    gates=np.zeros_like(gates),
    wi=[np.zeros_like(w) for w in wi],
    wo=np.zeros_like(wo),
  )
  for b, t, k in np.argwhere(kept):
    e, gate, token, dy = (
      experts[b, t, k],
      gates[b, t, k],
      x[b, t],
      covector[b, t],
    )
    before = [token @ w[e] for w in wi]
    if activation is Activation.RELU:
      hidden = np.maximum(before[0], 0)
      slopes = [(before[0] > 0).astype(float)]
    else:
      value, slope = gelu(before[0])
      hidden = value * before[1]
      slopes = [slope * before[1], value]
    out = hidden @ wo[e]
    found.y[b, t] += gate * out
    found.gates[b, t, k] = dy @ out
    found.wo[e] += gate * np.outer(hidden, dy)
    dhidden = gate * (wo[e] @ dy)
    for w, dw, slope in zip(wi, found.wi, slopes, strict=True):
      dw[e] += np.outer(token, dhidden * slope)
      found.x[b, t] += w[e] @ (dhidden * slope)
  return found


def places(experts, valid, rows, capacity, order=None):
  """Which choices `[B, L, K]` find one of an expert's `capacity` places.

  Groups of `rows` rows compete; first choices go before second ones, and then
  tokens in their order, or in the given one (`[B, L]`, lowest first).
  """
  num_rows, length, num_selected = experts.shape
  if order is None:
    order = np.arange(num_rows * length).reshape(num_rows, length)
  kept = np.zeros(experts.shape, bool)
  for first in range(0, num_rows, rows):
    group = [(b, t) for b in range(first, first + rows) for t in range(length)]
    taken = np.zeros(experts.max() + 1, int)
    for k in range(num_selected):
      for b, t in sorted(group, key=lambda at: order[at]):
        if valid[b, t] and taken[experts[b, t, k]] < capacity:
          taken[experts[b, t, k]] += 1
          kept[b, t, k] = True
  return kept
