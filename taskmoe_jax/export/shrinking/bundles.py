"""Makes a bundle of a bundle, smaller; and the table of what came of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.table
from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.groups import average
from taskmoe_jax.export.run_texts import (
  samples_for,
  texts_to_score,
)
from taskmoe_jax.export.shrinking.shrink import Shrinking, shrink


def shrink_bundle(
  folder: epath.PathLike,
  out: epath.PathLike,
  shrinking: Shrinking,
  *,
  run_dir: epath.PathLike | None = None,
  overwrite: bool = False,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Writes a smaller bundle beside one that is there and stays as it is.

  Formats of the old bundle are not taken along: they hold other weights.

  Args:
    folder: The bundle.
    out: The folder of the new one.
    shrinking: What to do.
    run_dir: The run whose sentences the two are compared on; the one that the
      bundle is from, unless given.
    overwrite: Whether what is at `out` may be replaced.
    console: Where the table is shown.

  Returns:
    What the new manifest says of it.

  Raises:
    TaskMoeError: The bundle is damaged or rounded already, or `out`
      exists; and see `shrink`.
  """
  manifest = _read_float32(folder)
  translator = bundle.load_bundle(folder)
  samples = samples_for(epath.Path(folder), manifest, run_dir)
  run = run_dir or manifest.source.run
  texts = texts_to_score(run, manifest.pairs, shrinking.score)
  with bundle.new_folder(out, overwrite=overwrite) as temporary:
    bundle.write_model(temporary, translator)
    said = shrink(temporary, shrinking, samples, texts)
    counts = dataclasses.replace(
      manifest.parameters, bundle=said["cost"]["parameters"]["after"]
    )
    # Formats of the old bundle go, and the entry comes last.
    smaller = manifest.with_entries(formats=None)
    bundle.write_manifest(
      temporary,
      smaller.with_entries(parameters=counts, **said, formats={}),
    )
  console = console or rich.console.Console()
  console.print(shrunk_table({manifest.task: said}))
  console.print(f"bundle in {out}", highlight=False, soft_wrap=True)
  return said


def _read_float32(folder: epath.PathLike) -> Manifest:
  """Reads a manifest, if it is that of a bundle that can be made smaller."""
  manifest = bundle.read_manifest(folder)
  if manifest.quantization is not None:
    raise TaskMoeError(
      f"the bundle {str(folder)!r} is rounded already, to"
      f" {manifest.quantization['stored_as']}. Set --bundle to one in"
      " float32."
    )
  return manifest


def shrunk_table(
  described: Mapping[str, Mapping[str, Any]],
) -> rich.table.Table:
  """A line for each bundle, by its name, of what `shrink` said."""
  table = rich.table.Table(title="made smaller")
  table.add_column("bundle")
  for name in (
    "pieces",
    "stored as",
    "MB",
    "parameters",
    "nats a token",
    "identical",
    "BLEU",
  ):
    table.add_column(name, justify="right", overflow="fold")
  for name, said in described.items():
    cost = said["cost"]
    trimmed, rounded = said.get("trimming"), said.get("quantization")
    # Rounding comes last, and both are compared with what was before.
    last: Mapping[str, Any] = rounded or trimmed or {}
    table.add_row(
      name,
      _change(trimmed["pieces"]) if trimmed else "-",
      rounded["stored_as"] if rounded else "float32",
      _change(cost["bytes"], "{:.2f}", 1e-6),
      _change(cost["parameters"], "{:.2f}M", 1e-6),
      f"{last['nats_per_token']:.1e}",
      f"{last['identical_translations']}/{last['sentences']}",
      _bleu(cost.get("bleu")),
    )
  return table


def _change(
  value: Mapping[str, int | float], form: str = "{}", unit: float = 1
) -> str:
  return " → ".join(
    form.format(value[when] * unit) for when in ("before", "after")
  )


def _bleu(bleu: Mapping[str, Mapping[str, float]] | None) -> str:
  """Averages over pairs."""
  if bleu is None:
    return "-"
  means = {when: average(scores) for when, scores in bleu.items()}
  return _change(means, "{:.2f}")
