"""Writing a checkpoint in the background of the training loop.

The next step overwrites the state, so what is written is a copy, made by the
devices: the loop waits for that alone. Everything else that a checkpoint takes
(folders, messages between processes, reading the copy off the devices, files)
is done in a thread. Where a device has no memory for a copy, the loop also
waits until the state has been read off it.

The thread must not run a program that processes run together: they would reach
it in another order than those of the steps, and wait for each other for ever.
Checksums are such a program, so with several processes the loop computes them;
Orbax synchronizes without the devices (`checkpoints`).
"""

import concurrent.futures
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from taskmoe_jax.runs.checkpoint_items import saved_items

# Share of a device's memory; the gaps between arrays cannot be used.
_USABLE = 0.95


class BackgroundWriter:
  """Writes one checkpoint after the other with Orbax.

  Orbax is only ever called in the thread: it raises an error once per thread.
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
    """Returns as soon as the arrays may change; call `wait` before.

    Args:
      step: Names the checkpoint.
      arrays: Trees of arrays, by the item's name.
      texts: Values for JSON, by the item's name.
      score: The score of the checkpoint, to keep the best.
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
      # Not `result()`: Ctrl-C interrupts this wait, and not the writing.
      concurrent.futures.wait([self._written])
      written, self._written = self._written, None
      written.result()

  def close(self) -> None:
    self._thread.submit(self._orbax.close).result()
    self._thread.shutdown()


def has_room(arrays: PyTree) -> bool:
  """Whether each device here has memory for a copy of its part of all arrays.

  On top of its peak, which is in a step. A device that does not report its
  memory, such as a CPU, is assumed to have it. Processes need not agree.
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
