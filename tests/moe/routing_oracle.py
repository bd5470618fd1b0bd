"""Routing in plain loops over tokens and experts, in float64.

Written from the definitions: the paper's section 3.1, GShard's balance loss,
ST-MoE's z-loss; nothing of it is shared with our code.
"""

import math
import types

import numpy as np


def softmax(scores):
  exps = [math.exp(s - max(scores)) for s in scores]
  return [e / sum(exps) for e in exps]


def best(values, number):
  """Indices of the largest, of equal ones the lower index first."""
  order = sorted(range(len(values)), key=lambda i: (-values[i], i))
  return order[:number]


def mean_of_sentence(x, segments, row, segment):
  vectors = [
    x[row, t] for t in range(x.shape[1]) if segments[row, t] == segment
  ]
  return np.mean(vectors, axis=0)


def scores_of(granularity, table, task_gate, data, b, t, num_candidates):
  """Scores of one token's experts, and which of them it may have."""
  num_experts = table.shape[1]
  everyone = list(range(num_experts))
  vector = {
    "token": lambda: data.x[b, t],
    "task_then_token": lambda: data.x[b, t],
    "task": lambda: data.task_vectors[data.task_ids[b]],
    "sentence": lambda: mean_of_sentence(
      data.x, data.segments, b, data.segments[b, t]
    ),
  }[granularity]()
  scores = [
    sum(vector[d] * table[d, e] for d in range(len(vector))) for e in everyone
  ]
  if granularity != "task_then_token":
    return scores, everyone
  task = data.task_vectors[data.task_ids[b]]
  of_task = [
    sum(task[d] * task_gate[d, e] for d in range(len(task))) for e in everyone
  ]
  allowed = sorted(best(of_task, num_candidates))
  return [s + t for s, t in zip(scores, of_task, strict=True)], allowed


def fixed(granularity, data, b, t, num_experts, num_selected):
  """Experts of a table that is dealt out."""
  owner = data.task_ids[b] if granularity == "static" else data.token_ids[b, t]
  return [(owner * num_selected + k) % num_experts for k in range(num_selected)]


def decide(granularity, table, task_gate, data, b, t, sizes):
  """One token's experts, gates, probabilities, entropy and log-partition."""
  num_experts, num_selected, num_candidates = sizes
  if granularity in ("static", "word"):
    experts = fixed(granularity, data, b, t, num_experts, num_selected)
    gates = [1 / num_selected] * num_selected
    return experts, gates, None, math.log(num_selected), None
  scores, allowed = scores_of(
    granularity, table, task_gate, data, b, t, num_candidates
  )
  inner = softmax([scores[e] for e in allowed])
  probabilities = [0.0] * num_experts
  for e, p in zip(allowed, inner, strict=True):
    probabilities[e] = p
  experts = [
    allowed[i] for i in best([scores[e] for e in allowed], num_selected)
  ]
  gates = [probabilities[e] for e in experts]
  if num_selected > 1:
    gates = [g / sum(gates) for g in gates]
  entropy = -sum(p * math.log(p) for p in inner)
  log_partition = math.log(sum(math.exp(scores[e]) for e in allowed))
  return experts, gates, probabilities, entropy, log_partition


def route(granularity, table, task_gate, data, kept, sizes, num_tasks):
  """Routes every token that is no padding, and counts.

  Args:
    granularity: Its name.
    table: `[D, E]`, as is the gate of tasks.
    task_gate: Of tasks.
    data: x, segments, task_ids, token_ids, task_vectors by task.
    kept: `[B, L, K]`, which choices an engine served.
    sizes: E, K, M.
    num_tasks: R.

  Returns:
    Experts and gates by token; losses, and shares of all and of each task.
  """
  num_experts, num_selected, _ = sizes
  decided = {
    (b, t): decide(granularity, table, task_gate, data, b, t, sizes)
    for b, t in np.argwhere(data.segments > 0).tolist()
  }
  counts = np.zeros((num_tasks, num_experts))
  tokens, entropies, drops = (np.zeros(num_tasks) for _ in range(3))
  first, probability = np.zeros(num_experts), np.zeros(num_experts)
  squares = 0.0
  for (b, t), (experts, _, probabilities, entropy, log_z) in decided.items():
    task = data.task_ids[b]
    tokens[task] += 1
    entropies[task] += entropy
    for k, e in enumerate(experts):
      counts[task, e] += 1
      drops[task] += not kept[b, t, k]
    if probabilities is not None:
      first[experts[0]] += 1
      probability += probabilities
      squares += log_z**2
  n = len(decided)
  seen = np.maximum(tokens, 1)
  return types.SimpleNamespace(
    experts={place: d[0] for place, d in decided.items()},
    gates={place: d[1] for place, d in decided.items()},
    balance_loss=num_experts * float(first @ probability) / n**2,
    z_loss=squares / n,
    load=counts.sum(0) / counts.sum(),
    entropy=entropies.sum() / n,
    dropped=drops.sum() / counts.sum(),
    task_tokens=tokens,
    task_load=counts / (seen * num_selected)[:, None],
    task_entropy=entropies / seen,
    task_dropped=drops / (seen * num_selected),
  )
