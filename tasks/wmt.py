"""`wmt_30` and `wmt_32`: the paper's WMT data, from TFDS and sacrebleu.

The editions are those of the paper's table 3 (`wmt_builders.py`). TFDS's text
is copied into the text cache when it is first read, to be read by index.

Nothing here imports seqio or TFDS before a mixture is made: gin names one even
where a cache replaces it, and that should not cost the seconds this takes.
"""

from collections.abc import Sequence

from taskmoe_jax.data.corpus import Mixture
from taskmoe_jax.data.text.cleaning import Cleaning


def wmt_30(
  vocabulary: str | None,
  *,
  temperature: float,
  data_dir: str | None,
  cleaning: Cleaning | None,
  languages: Sequence[str] | None = None,
) -> Mixture:
  """Registers English with the paper's 15 languages, in both directions.

  Args:
    vocabulary: Vocabulary of the seqio tasks, see `register_mixture`.
    temperature: Sampling temperature, see `register_mixture`.
    data_dir: Where TFDS's data is; None for TFDS's default.
    cleaning: What to remove from the train parts; None for nothing.
    languages: Which languages to pair with English; None for all 15.

  Raises:
    TaskMoeError: Some data is not there; says how to get all of it.
  """
  from taskmoe_jax.data.seqio.registration import register_mixture
  from taskmoe_jax.tasks.wmt_sources import english_centric

  return register_mixture(
    "wmt_30",
    english_centric(languages, data_dir, cleaning, zero_shot=False),
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="wmt",
  )


def wmt_32(
  vocabulary: str | None,
  *,
  temperature: float,
  data_dir: str | None,
  cleaning: Cleaning | None,
) -> Mixture:
  """Registers `wmt_30` with de-fr and fr-de, which are only evaluated.

  They have no train part and no rate. The paper's averages are over these 32.
  """
  from taskmoe_jax.data.seqio.registration import register_mixture
  from taskmoe_jax.tasks.wmt_sources import english_centric

  return register_mixture(
    "wmt_32",
    english_centric(None, data_dir, cleaning, zero_shot=True),
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="wmt",
  )
