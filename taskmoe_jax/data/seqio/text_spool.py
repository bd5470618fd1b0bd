"""Copies the text of a TensorFlow dataset into the text cache, once.

A `tf.data.Dataset` can only be read from its beginning. Training needs any
example by index, so the text is copied once, and read from the copy from then
on (`text_store.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from taskmoe_jax.data.text.text_store import (
  RECORD,
  TextStore,
  Writer,
  cached_store,
  progress,
)

_EXAMPLES_AT_ONCE = 1024
# Fewer examples take under a second.
_SHOWN_FROM = 1_000_000


def spool(
  name: str,
  key: Mapping[str, Any],
  make_dataset: Callable[[], tf.data.Dataset],
  *,
  features: tuple[str, str],
) -> TextStore:
  """Returns the text of a dataset, in the dataset's order.

  Args:
    name: For people who look into the cache.
    key: JSON of what decides the text. With the same key it is taken from the
      cache, and `make_dataset` is not called.
    make_dataset: Gives the dataset, of scalar strings.
    features: Names of the first and the second side.
  """

  def make(writer: Writer) -> dict[str, Any]:
    dataset = make_dataset()
    dataset = dataset.map(
      lambda example: tuple(example[feature] for feature in features)
    )
    size = int(dataset.cardinality())
    end = count = 0
    with progress(
      f"copying {name}",
      total=max(size, 0),
      num_bytes=2**30 if size < 0 or size > _SHOWN_FROM else 0,
    ) as advance:
      for sides in dataset.batch(_EXAMPLES_AT_ONCE).as_numpy_iterator():
        end = _write(writer, *map(list, sides), begin=end)
        count += len(sides[0])
        advance(len(sides[0]))
    return {"lines": count}

  return cached_store(name, {"spool": key, "features": features}, make)


def _write(
  writer: Writer, firsts: list[bytes], seconds: list[bytes], *, begin: int
) -> int:
  """Writes some examples at a position of the text; returns where they end."""
  records = np.empty(len(firsts), RECORD)
  records["first"] = [len(text) for text in firsts]
  records["second"] = [len(text) for text in seconds]
  # Each with a tab between its sides and a newline at the end.
  sizes = records["first"].astype(np.int64) + records["second"] + 2
  ends = begin + np.cumsum(sizes)
  records["begin"] = ends - sizes
  writer.records.write(records.tobytes())
  writer.text.write(
    b"".join(b"%b\t%b\n" % pair for pair in zip(firsts, seconds, strict=True))
  )
  return int(ends[-1])
