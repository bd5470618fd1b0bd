"""Any seqio task or mixture that is registered elsewhere, from any source.

Its text is taken as it is before its `tokenize` step, copied once into the text
cache, and then read, tokenised, packed and mixed like all other text. Rates are
those of the mixture.
"""

from collections.abc import Mapping, Sequence

from taskmoe_jax.data.corpus import Mixture


def registered(
  name: str,
  *,
  modules: Sequence[str],
  pairs: Mapping[str, str],
  revision: str,
  vocabulary: str | None,
) -> Mixture:
  """Returns a mixture of the text of registered seqio tasks.

  Args:
    name: Name of a seqio mixture or task.
    modules: Imported first, to register it.
    pairs: The pair of each seqio task, such as `{"wiki_de_en": "de-en"}`.
    revision: Any text. A copy in the text cache stays in use until the seqio
      task's source, its steps or this changes; change it when the text has
      changed where one cannot see it from here.
    vocabulary: Vocabulary of the seqio tasks that this registers, see
      `register_mixture`.
  """
  # Not above, as in `tsv.py`.
  from taskmoe_jax.tasks.registered_tasks import mixture_of_copies

  return mixture_of_copies(
    name,
    modules=modules,
    pairs=pairs,
    revision=revision,
    vocabulary=vocabulary,
  )
