"""Writes a sub-network as a folder for CTranslate2.

  FOLDER/
    model.bin                float32, float16 or int8
    config.json              the end of a source is added; epsilon of the norms
    shared_vocabulary.json   the name of every id
    spiece.model             the vocabulary, as SentencePiece has it
    README.md                the lines that translate

The formats `ctranslate2`, `ctranslate2_float16` and `ctranslate2_int8` differ
in what matrices and tables are stored in. The first is exact.
"""

import dataclasses
import importlib.util
import tempfile

from etils import epath

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import Stopping
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats import engine_check
from taskmoe_jax.export.formats.format import (
  Expected,
  FormatCheck,
  refuse_mixtures,
  refuse_routing,
)
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import target_symbol

_NAME = "CTranslate2"
# With a length penalty CTranslate2 knows no other.
SEARCH = dataclasses.replace(engine_check.SEARCH, stopping=Stopping.FULL)
_README = """\
# {title}, for CTranslate2

Translates {directions}. Stored as {stored_as}; from run `{run}`, step {step}.

    pip install ctranslate2 sentencepiece

```python
import ctranslate2
import sentencepiece

FOLDER = "."
pieces = sentencepiece.SentencePieceProcessor(FOLDER + "/spiece.model")
translator = ctranslate2.Translator(FOLDER)


def translate(lines, symbol="{symbol}"):
  sources = [
    [symbol, *map(pieces.id_to_piece, pieces.encode(line))] for line in lines
  ]
  found = translator.translate_batch(
    sources,
    beam_size=4,
    length_penalty=0.5,
    max_batch_size=32,
    max_input_length=0,
    min_decoding_length=0,
  )
  return [
    pieces.decode([pieces.piece_to_id(name) for name in result.hypotheses[0]])
    for result in found
  ]


print(translate(["3 hours"]))
```

A source begins with the symbol of its target language ({symbols}), which is no
text: it is put before the pieces. The end of the sentence is added by
CTranslate2 (`add_source_eos` in config.json): do not add it too. Without
`max_input_length=0` a source is cut after 1024 pieces, and without
`min_decoding_length=0` the first piece is chosen as if a translation could not
be empty, which changes its probability.

For a GPU: `ctranslate2.Translator(FOLDER, device="cuda")`. What is computed in
is `compute_type`: `"int8"`, `"float16"`, `"float32"` or `"auto"`, whatever the
numbers are stored as. No CPU computes in float16: it takes float32, and warns.
"""


@dataclasses.dataclass(frozen=True)
class CTranslate2:
  """One of the formats for CTranslate2.

  Attributes:
    name: The format's name.
    stored_as: What matrices and tables are stored in.
    most_per_token: Of a format that is not exact: by how many nats the
      log-probability of a reference's token may differ on the average. Trained
      models differ by 1e-4 (float16) and 2e-3 (int8); wrong weights by 1.
  """

  name: str
  stored_as: str
  most_per_token: float | None = None

  def refuse(self, model: ModelConfig) -> None:
    """Refuses what CTranslate2 cannot represent; see `Format`."""
    refuse_routing(model, _NAME, self.name)
    if importlib.util.find_spec("ctranslate2") is None:
      raise TaskMoeError(
        f"the format {self.name} is written and checked with ctranslate2, which"
        " is not installed: pip install 'taskmoe-jax[export]'. Or leave"
        f" {self.name} out of --formats."
      )

  def write(
    self, translator: Translator, folder: epath.Path, about: About
  ) -> None:
    """Writes the folder.

    Raises:
      TaskMoeError: The model is not dense.
    """
    from taskmoe_jax.export.formats.ctranslate2.weights import ctranslate2_spec

    refuse_mixtures(translator.model, _NAME, self.name)
    spec = ctranslate2_spec(
      translator.params, translator.model, translator.vocabulary
    )
    spec.config.add_attribute("stored_as", self.stored_as)
    spec.optimize(self.stored_as)
    # It writes to disk, and the folder may be in a bucket.
    with tempfile.TemporaryDirectory() as local:
      spec.save(local)
      for path in epath.Path(local).iterdir():
        path.copy(folder / path.name)
    (folder / "spiece.model").write_bytes(translator.vocabulary.model)
    (folder / "README.md").write_text(self._readme(translator, about))

  def check(self, expected: Expected, folder: epath.Path) -> FormatCheck:
    """Loads the folder in CTranslate2 and compares it with the bundle."""
    from taskmoe_jax.export.formats.ctranslate2.engine import CTranslate2Engine

    return engine_check.check_engine(
      expected,
      CTranslate2Engine(folder),
      exact=self.most_per_token is None,
      most_per_token=self.most_per_token,
      search=SEARCH,
    )

  def _readme(self, translator: Translator, about: About) -> str:
    pairs = translator.task_space.pairs
    symbols = dict.fromkeys(
      target_symbol(split_pair(pair)[1]) for pair in pairs
    )
    return _README.format(
      title=f"Translation, {about.task}",
      directions=", ".join(f"`{pair}`" for pair in pairs),
      stored_as=self.stored_as,
      run=about.run,
      step=about.step,
      symbol=next(iter(symbols)),
      symbols=", ".join(f"`{symbol}`" for symbol in symbols),
    )


FLOAT32 = CTranslate2("ctranslate2", "float32")
FLOAT16 = CTranslate2("ctranslate2_float16", "float16", most_per_token=0.01)
INT8 = CTranslate2("ctranslate2_int8", "int8", most_per_token=0.2)
