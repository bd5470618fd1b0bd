"""A run's whole mixture as one bundle: it translates without the run."""

from typing import Any

import jax
import numpy as np
import rich.console
from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import About, Manifest
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.run_texts import known_scores, texts_to_score
from taskmoe_jax.export.shrinking.bundles import shrunk_table
from taskmoe_jax.export.shrinking.shrink import NOTHING, Shrinking, shrink
from taskmoe_jax.models.parameters import parameter_count
from taskmoe_jax.runs.directory import load_samples
from taskmoe_jax.runs.restoring import load_translator

# The bundle's name, where others have that of their task.
WHOLE = "whole"


def export_whole(
  run_dir: epath.PathLike,
  *,
  out: epath.PathLike | None = None,
  step: int | None = None,
  overwrite: bool = False,
  shrinking: Shrinking = NOTHING,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Writes the whole model of a run, to `OUT/whole`.

  Any model: a dense one, or one that has no sub-networks. What was written is
  read back and compared bit for bit; so there is room for two of it.

  Args:
    run_dir: The run directory.
    out: `RUN_DIR/export-<step>` unless given.
    step: Which checkpoint; the newest unless given.
    overwrite: Whether what is there may be replaced.
    shrinking: What is done to it then.
    console: Where it is said what came of it.

  Returns:
    What the manifest says of making it smaller.

  Raises:
    TaskMoeError: There is a bundle already, or it cannot be written; and see
      `shrink`.
  """
  console = console or rich.console.Console()
  model, step = load_translator(run_dir, step=step)
  folder = epath.Path(out or epath.Path(run_dir) / f"export-{step}") / WHOLE
  pairs = model.task_space.pairs
  texts = texts_to_score(run_dir, pairs, shrinking.score)
  with bundle.new_folder(folder, overwrite=overwrite) as temporary:
    bundle.write_model(temporary, model)
    _check_written(temporary, model)
    said = shrink(temporary, shrinking, load_samples(run_dir), texts)
    size = parameter_count(model.params)
    kept = said["cost"]["parameters"]["after"] if said else size
    manifest = _manifest(model, run_dir, step, (size, kept))
    bundle.write_manifest(temporary, manifest.with_entries(**said))
  if said:
    console.print(shrunk_table({WHOLE: said}))
  console.print(f"bundle in {folder}", highlight=False, soft_wrap=True)
  return said


def _manifest(
  model: Translator,
  run_dir: epath.PathLike,
  step: int,
  parameters: tuple[int, int],
) -> Manifest:
  unreduced = {"reduced": False, "reason": "the model is kept whole"}
  scores = known_scores(run_dir, step)
  return Manifest.of(
    About(WHOLE, str(run_dir), step, parameters, scores),
    model.task_space,
    stacks={"encoder": unreduced, "decoder": unreduced},
    check={"by": "bits", "numbers": parameters[0]},
    formats={},
  )


def _check_written(folder: epath.Path, model: Translator) -> None:
  """Makes sure that what was read back is what was written."""
  same = jax.tree.map(
    lambda ours, theirs: np.array_equal(ours, theirs),
    model.params,
    bundle.read_model(folder).params,
  )
  if not all(jax.tree.leaves(same)):
    raise TaskMoeError(
      f"what was written to {str(folder)!r} is not what is read back. Nothing"
      " is left of it. Set --out to another disk."
    )
