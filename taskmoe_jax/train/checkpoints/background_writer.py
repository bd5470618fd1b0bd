"""Writing a checkpoint beside the training loop.

The next step overwrites the state, so what is written is a copy, made by the
devices: the loop waits for that alone. All else that a checkpoint takes
(folders, messages between processes, reading the copy off the devices, files)
is done in a thread. Where a device has no room for a copy, the loop waits until
the state has been read off it, too.

Nothing in the thread may be a program that processes run together: they would
meet it in another order than those of the steps, and wait for each other for
ever. Checksums are such a program, so the loop takes them where there are
several processes; Orbax's meet without their devices (`checkpoints`).
"""

import concurrent.futures
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from taskmoe_jax.runs.checkpoint_items import saved_items

# Of a device's memory; what lies between arrays cannot be used.
_USABLE = 0.95


class Writing:
  """Writes one checkpoint after the other with Orbax.

  Which is only ever called in the thread: it raises an error once in each.
  """

  def __init__(self, orbax: ocp.CheckpointManager):
    self._orbax = orbax
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
    self._written: concurrent.futures.Future | None = None

  def begin(
    self,
    step: int,
    arrays: Mapping[str, PyTree],
    texts: Mapping[str, Any],
    score: float | None,
  ) -> None:
    """Returns as soon as the arrays may change; the one before must be done.

    Args:
      step: Names the checkpoint.
      arrays: Trees of arrays, by the item's name.
      texts: Values for JSON, by the item's name.
      score: What the checkpoint is judged by.
    """
    apart = has_room(arrays)
    if apart:
      arrays = _copied(arrays)
    items = saved_items(arrays, texts) if jax.process_count() > 1 else None

    def read():
      args = items or saved_items(arrays, texts)
      self._orbax.save(step, args=args, metrics={"score": score}, force=True)

    reading = self._thread.submit(read)
    if not apart:
      reading.result()

    def finish():
      reading.result()
      self._orbax.wait_until_finished()

    self._written = self._thread.submit(finish)

  @property
  def is_done(self) -> bool:
    """Whether `wait` would return, or raise, at once."""
    return self._written is None or self._written.done()

  def wait(self) -> None:
    """Waits for what is being written; raises what Orbax raised."""
    if self._written is not None:
      # Apart from asking how it went: Ctrl-C ends this, and not the writing.
      concurrent.futures.wait([self._written])
      written, self._written = self._written, None
      written.result()

  def close(self) -> None:
    self._thread.submit(self._orbax.close).result()
    self._thread.shutdown()


def has_room(arrays: PyTree) -> bool:
  """Whether each device here has room for its part of all arrays once more.

  Beside the most that it has held, which is in a step. A device that does not
  tell its memory, as a CPU, is taken to have it. Processes need not agree.
  """
  needed: dict[jax.Device, int] = {}
  for leaf in jax.tree.leaves(arrays):
    for shard in leaf.addressable_shards:
      size = shard.data.nbytes
      needed[shard.device] = needed.get(shard.device, 0) + size
  return all(_fits(device, size) for device, size in needed.items())


def _fits(device: jax.Device, size: int) -> bool:
  told = _memory(device)
  if not {"bytes_limit", "peak_bytes_in_use"} <= told.keys():
    return True
  return told["peak_bytes_in_use"] + size <= _USABLE * told["bytes_limit"]


def _memory(device: jax.Device) -> Mapping[str, int]:
  return device.memory_stats() or {}


@jax.jit
def _copied(arrays: PyTree) -> PyTree:
  return jax.tree.map(jnp.copy, arrays)
