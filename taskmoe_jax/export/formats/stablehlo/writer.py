"""Writes a sub-network as StableHLO, which needs only JAX to run.

  FOLDER/
    greedy.bin      translates a batch
    start.bin       encodes a batch, for searches of one's own
    step.bin        one step of such a search
    programs.json   which parameters they take, and for which symbols
    translate.py    text in, text out
    README.md       how to use it, and until when

Parameters and vocabulary are those of the bundle that the folder lies in: there
is no second copy of them. Only where a bundle does not have them in float32, a
rounded one for instance, or the folder lies in none, it has its own.
"""

import importlib.util
import json
from collections.abc import Set

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from safetensors import numpy as safetensors

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import GREEDY
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.engine_check import check_engine
from taskmoe_jax.export.formats.format import (
  Expected,
  FormatCheck,
  refuse_mixtures,
  refuse_routing,
)
from taskmoe_jax.export.formats.stablehlo import runner
from taskmoe_jax.export.formats.stablehlo.engine import StableHloEngine
from taskmoe_jax.export.formats.stablehlo.programs import (
  PLATFORMS,
  export_programs,
)
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import target_symbol

_PARAMETERS = "model.safetensors"
_VOCABULARY = "vocabulary.model"
_NAME = "a StableHLO program of open sizes"
_README = """\
# {title}, as StableHLO

Translates {directions}; from run `{run}`, step {step}. One file for all of
{platforms}.

    pip install jax flatbuffers sentencepiece
    python translate.py --symbol='{symbol}' < source.txt > target.txt

```python
from translate import Translator

translate = Translator().translate
print(translate(["3 hours"], "{symbol}"))
```

The symbol of the target language ({symbols}) may be left out where there is
only one. Parameters and vocabulary are read from the bundle that this folder
lies in, `../model.safetensors` and `../vocabulary.model`, unless they are here:
move the bundle as a whole, or copy these two files in here.

**This is no archive.** It was exported by JAX {version}. JAX reads exports for
six months after the release that made them, then may refuse. The archive is the
bundle itself; export it again with a newer JAX.

`greedy.bin` translates; `start.bin` and `step.bin` are for searches of your
own. `translate.py` shows what all are called with. Numbers are float32; the
product of matrices has the precision that JAX chooses by default, which on TPUs
and GPUs is less (`jax.config.jax_default_matmul_precision`).
"""


class StableHlo:
  """The format `stablehlo`."""

  def refuse(self, model: ModelConfig) -> None:
    """Refuses what has no program; see `Format`."""
    refuse_routing(model, _NAME, "stablehlo")
    if importlib.util.find_spec("flatbuffers") is None:
      raise TaskMoeError(
        "the format stablehlo is written with flatbuffers, which is not"
        " installed: pip install 'taskmoe-jax[export]'. Or leave stablehlo out"
        " of --formats."
      )

  def write(
    self, translator: Translator, folder: epath.Path, about: About
  ) -> None:
    """Writes the folder.

    Raises:
      TaskMoeError: The model is not dense.
    """
    refuse_mixtures(translator.model, _NAME, "stablehlo")
    programs = export_programs(translator.model)
    names = {name for name, _ in programs.parameters}
    if not _has_parameters(folder.parent, names):
      flat = traverse_util.flatten_dict(translator.params, sep="/")
      arrays = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in flat.items()
      }
      (folder / _PARAMETERS).write_bytes(safetensors.save(arrays))
    vocabulary = folder.parent / _VOCABULARY
    if not vocabulary.exists() or (
      vocabulary.read_bytes() != translator.vocabulary.model
    ):
      (folder / _VOCABULARY).write_bytes(translator.vocabulary.model)
    for name, serialized in programs.serialized.items():
      (folder / f"{name}.bin").write_bytes(serialized)
    pairs = translator.task_space.pairs
    symbols = list(
      dict.fromkeys(target_symbol(split_pair(pair)[1]) for pair in pairs)
    )
    described = {
      "jax": jax.__version__,
      "platforms": PLATFORMS,
      "symbols": symbols,
      "parameters": programs.parameters,
    }
    (folder / "programs.json").write_text(json.dumps(described, indent=2))
    program = epath.Path(runner.__file__).read_text()
    (folder / "translate.py").write_text(program)
    readme = _README.format(
      title=f"Translation, {about.task}",
      directions=", ".join(f"`{pair}`" for pair in pairs),
      run=about.run,
      step=about.step,
      platforms=", ".join(PLATFORMS),
      symbol=symbols[0],
      symbols=", ".join(f"`{symbol}`" for symbol in symbols),
      version=jax.__version__,
    )
    (folder / "README.md").write_text(readme)

  def check(self, expected: Expected, folder: epath.Path) -> FormatCheck:
    """Loads the programs and compares them with the bundle."""
    engine = StableHloEngine(folder)
    return check_engine(expected, engine, exact=True, search=GREEDY)


def _has_parameters(folder: epath.Path, names: Set[str]) -> bool:
  """Whether a bundle has all of these in float32."""
  path = folder / _PARAMETERS
  if not path.exists():
    return False
  with path.open("rb") as file:
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
  return all(header.get(name, {}).get("dtype") == "F32" for name in names)


STABLEHLO = StableHlo()
