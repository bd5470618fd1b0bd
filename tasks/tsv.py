"""Any folder of parallel text: `xx-yy.{train,dev,test}.tsv[.gz]`."""

import functools

import seqio

from taskmoe_jax.data.registration import register_mixture
from taskmoe_jax.data.sources import ParallelSource
from taskmoe_jax.data.tsv import TsvFolder


def tsv(
  folder: str, *, vocabulary: str | None, temperature: float, name: str = "tsv"
) -> seqio.Mixture:
  """Registers both directions of every pair in a folder, and their mixture.

  Args:
    folder: Where the files are; the languages are read off their names.
    vocabulary: Of the seqio tasks, see `register_mixture`.
    temperature: Of the sampling, see `register_mixture`.
    name: Of the mixture, and the first part of its seqio tasks' names.
  """
  files = TsvFolder(folder)
  sources = []
  for first, second in files.pairs:
    texts = {
      part: functools.partial(files.text, (first, second), part)
      for part in files.parts((first, second))
    }
    sources += [
      ParallelSource(first, second, texts),
      ParallelSource(second, first, texts, swapped=True),
    ]
  return register_mixture(
    name,
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix=name,
  )
