"""Makes batches ahead of the steps that use them."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

from taskmoe_jax.data.batches import Batch, TrainBatches


def prefetch(
  batches: TrainBatches, *, depth: int
) -> Iterator[tuple[Batch, dict[str, Any]]]:
  """Makes batches ahead in a thread; gives each with the state after it.

  So a checkpoint stores the position of the step it belongs to, not that of
  the read-ahead. Close it (`contextlib.closing`) to end the thread.

  Args:
    batches: What to iterate over; nobody else may use it meanwhile.
    depth: How many batches may wait.
  """
  ready = queue.Queue()
  free = threading.Semaphore(depth)
  closed = threading.Event()

  def work():
    try:
      while True:
        free.acquire()
        if closed.is_set():
          return
        ready.put((next(batches), batches.state()))
    except BaseException as error:
      ready.put(error)

  thread = threading.Thread(target=work, name="prefetch", daemon=True)
  thread.start()
  try:
    while True:
      item = ready.get()
      if isinstance(item, BaseException):
        raise item
      free.release()
      yield item
  finally:
    closed.set()
    free.release()
    thread.join()
