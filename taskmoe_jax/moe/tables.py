"""Fixed tables of experts: no gate is learned, every gate is 1/K."""

import enum

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from taskmoe_jax.moe.gates import top_k


class WordTable(enum.StrEnum):
  """Which experts a token id has, see `word_experts`."""

  DEALT = "dealt"
  HASHED = "hashed"


def static_experts(
  num_tasks: int, num_experts: int, num_selected: int
) -> np.ndarray:
  """Deals experts out to tasks in turn, like cards: `[R, K]`.

  Task r gets experts rK, rK+1, ... modulo E, so tasks share none while R·K is
  at most E. The paper gives no rule for its Static MoE; this one is ours.
  """
  dealt = np.arange(num_tasks * num_selected).reshape(num_tasks, num_selected)
  return (dealt % num_experts).astype(np.int32)


def word_experts(
  token_ids: Int[Array, "*b"],
  table: WordTable,
  num_experts: int,
  num_selected: int,
) -> Int[Array, "*b K"]:
  """The experts of each token id, computed and not looked up.

  `dealt` gives token v experts vK, vK+1, ... modulo E. SentencePiece sorts its
  ids by frequency, so experts get frequent and rare tokens alike: nearly the
  balanced assignment of Hash Layers (arXiv 2106.04426, section 3.2), which
  there does best. `hashed` scatters ids, so that tokens of one expert are not
  those of another: each expert draws a number for each token id, and the K
  highest have it (rendezvous hashing), so they are distinct and no two tokens
  need have the same set.
  """
  if table is WordTable.DEALT:
    first = token_ids * num_selected
    return jnp.add.outer(first, jnp.arange(num_selected)) % num_experts
  ids = _mixed(token_ids.astype(jnp.uint32))
  experts = jnp.arange(num_experts, dtype=jnp.uint32)
  drawn = _mixed(jnp.add.outer(ids, experts * _ODD))
  # 24 bits, which float32 holds exactly; of equal ones the lower index wins.
  return top_k((drawn >> 8).astype(jnp.float32), num_selected)


# 2^32 over the golden ratio.
_ODD = np.uint32(0x9E3779B9)


def _mixed(x: UInt32[Array, "*b"]) -> UInt32[Array, "*b"]:
  """MurmurHash3's last step: one to one, and any bit changes half of all."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
