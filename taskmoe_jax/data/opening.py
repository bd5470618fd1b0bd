"""Opens what `MIXTURE` is in gin, once a command.

What reads a corpus takes it opened, so that no command opens it twice. Apart
from `corpus.py`, which `seqio/live.py` imports.
"""

from taskmoe_jax.data.corpus import Corpus, Mixture


def open_corpus(mixture: Mixture) -> Corpus:
  """Returns the corpus that a mixture is, or that reads a seqio mixture."""
  if isinstance(mixture, Corpus):
    return mixture
  # A seqio mixture has already imported seqio; a cache should not have to.
  from taskmoe_jax.data.seqio.live import LiveCorpus

  return LiveCorpus(mixture)
