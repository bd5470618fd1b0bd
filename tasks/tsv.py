"""Any folder of parallel text: `xx-yy.{train,dev,test}.tsv[.gz]`."""

import functools

from taskmoe_jax.data.corpus import Mixture
from taskmoe_jax.data.text.cleaning import Cleaning
from taskmoe_jax.data.text.tsv import TsvFolder


def tsv(
  folder: str,
  *,
  vocabulary: str | None,
  temperature: float,
  cleaning: Cleaning | None = None,
  name: str = "tsv",
) -> Mixture:
  """Registers both directions of every pair in a folder, and their mixture.

  Args:
    folder: Folder of the files, whose names say the languages.
    vocabulary: Vocabulary of the seqio tasks, see `register_mixture`.
    temperature: Sampling temperature, see `register_mixture`.
    cleaning: What to remove from the train parts; None for nothing.
    name: Name of the mixture, and prefix of its seqio tasks' names.
  """
  # Not above: gin names a mixture even where a cache replaces it, and that
  # should not cost the seconds that importing seqio takes.
  from taskmoe_jax.data.seqio.registration import (
    both_directions,
    register_mixture,
  )

  files = TsvFolder(folder)
  sources = []
  for pair in files.pairs:
    texts = {
      part: functools.partial(files.text, pair, part)
      for part in files.parts(pair)
    }
    sources += both_directions(pair, texts, cleaning=cleaning)
  return register_mixture(
    name,
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix=name,
  )
