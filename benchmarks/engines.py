"""Our decoder against other engines, with the same weights, side by side.

  python benchmarks/engines.py --beams=1,4

A sub-network of random weights is written by the formats' own writers. Then all
engines translate the same batch in turn, in one process, on the CPU, with
`--threads` threads each; give XLA as many cores (`taskset -c 0,1`) and set
OMP_WAIT_POLICY=passive, so that threads that wait cost no CPU time. Whether
they compute the same is the job of `agreement.py`; here it is only counted how
many translations are ours. Needs taskmoe-jax[export].
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import jax
import numpy as np
import rich.console
import rich.table
import torch
from etils import epath
from jaxtyping import Int

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import decode, decode_programs
from benchmarks.made_up import made_up_vocabulary
from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import GREEDY, Beam, Normalization, Search
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export.formats.format import formats_named
from taskmoe_jax.export.formats.huggingface.engine import HuggingFaceEngine
from taskmoe_jax.hosts.memory import keep_freed_memory
from taskmoe_jax.models.parameters import parameter_count, unrolled
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.task_space import TaskSpace

FORMATS = ("huggingface", "ctranslate2", "ctranslate2_int8")
_LENGTH_PENALTY = 0.6

Tokens = list[list[int]]


def write_formats(
  setting: decode_programs.Setting, params: Any, folder: Path
) -> dict[str, epath.Path]:
  """Writes a sub-network in all formats."""
  model = setting.model
  translator = Translator(
    model,
    params,
    TaskSpace.from_pairs(("en-de",), "target"),
    made_up_vocabulary(model.vocab_size),
  )
  size = parameter_count(params)
  about = About("de", "random weights", 0, (size, size), {})
  folders = {}
  for name, writer in formats_named(",".join(FORMATS)).items():
    folders[name] = epath.Path(folder) / name
    folders[name].mkdir()
    writer.refuse(model)
    writer.write(translator, folders[name], about)
  return folders


def hugging_face(
  folder: epath.Path,
  sources: Int[np.ndarray, "B S"],
  beam_size: int,
  steps: int,
) -> Callable[[], Tokens]:
  """Translates a batch with `generate`."""
  engine = HuggingFaceEngine(folder)
  search: Search = GREEDY
  if beam_size > 1:
    search = Beam(
      size=beam_size,
      length_penalty=_LENGTH_PENALTY,
      normalization=Normalization.POWER,
    )
  return lambda: engine.generate(sources, search, steps)


def ctranslate2_of(
  folder: epath.Path,
  sources: Int[np.ndarray, "B S"],
  beam_size: int,
  steps: int,
  threads: int,
) -> Callable[[], Tokens]:
  """Translates a batch with CTranslate2."""
  names = json.loads((folder / "shared_vocabulary.json").read_text())
  ids = {name: index for index, name in enumerate(names)}
  # It computes in what is stored, unless the CPU cannot.
  engine = ctranslate2.Translator(
    os.fspath(folder), device="cpu", intra_threads=threads
  )
  # It adds the end of sentence itself.
  texts = [[names[i] for i in row[:-1]] for row in sources]

  def translate() -> Tokens:
    results = engine.translate_batch(
      texts,
      beam_size=beam_size,
      length_penalty=_LENGTH_PENALTY if beam_size > 1 else 0.0,
      min_decoding_length=0,
      max_decoding_length=steps,
      max_input_length=0,
      max_batch_size=len(texts),
      return_end_token=True,
    )
    return [[ids[name] for name in r.hypotheses[0]] for r in results]

  return translate


def race(
  programs: dict[str, Callable[[], Tokens]], repeats: int
) -> dict[str, dict[str, Any]]:
  """Least seconds, by the wall and of the process, of each; in turn."""
  found = {
    name: {"wall": np.inf, "cpu": np.inf, "tokens": program()}
    for name, program in programs.items()
  }
  for _ in range(repeats):
    for name, program in programs.items():
      wall, cpu = time.perf_counter(), time.process_time()
      program()
      best = found[name]
      best["wall"] = min(best["wall"], time.perf_counter() - wall)
      best["cpu"] = min(best["cpu"], time.process_time() - cpu)
  return found


def compared(
  flags: argparse.Namespace,
  beam_size: int,
  folder: Path,
  partitioning: Partitioning,
) -> list[dict[str, Any]]:
  """A row of the table for each engine."""
  flags.beam_size = beam_size
  setting = decode_programs.Setting.from_flags(flags, flags.model)
  scanned = decode_programs.scanned_params(setting, partitioning)
  folders = write_formats(setting, scanned, folder)
  sources = decode_programs.sources(setting, flags.rows)
  params = unrolled(scanned, setting.model)
  ours = decode_programs.translation(setting, params, partitioning, flags.rows)

  def translate() -> Tokens:
    return np.asarray(ours().tokens)[:, 0].tolist()

  programs = {"ours": translate}
  for name, of_format in folders.items():
    if name == "huggingface":
      program = hugging_face(of_format, sources, beam_size, flags.steps)
    else:
      program = ctranslate2_of(
        of_format, sources, beam_size, flags.steps, flags.threads
      )
    programs[name] = program
  found = race(programs, flags.repeats)
  our = found["ours"]
  return [
    {
      "beam": beam_size,
      "engine": name,
      "wall s": of_one["wall"],
      "cpu s": of_one["cpu"],
      "wall / ours": of_one["wall"] / our["wall"],
      "cpu / ours": of_one["cpu"] / our["cpu"],
      "same": f"{_same(our['tokens'], of_one['tokens'])}/{flags.rows}",
    }
    for name, of_one in found.items()
  ]


def _same(ours: Tokens, theirs: Tokens) -> int:
  """How many are the same; ours have padding behind them."""
  return sum(
    our[: len(their)] == their and not any(our[len(their) :])
    for our, their in zip(ours, theirs, strict=True)
  )


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="sub_network", help="or dense")
  parser.add_argument("--beams", default="1,4")
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--vocab_size", type=int, default=32000, help="V")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--json", type=Path, help="where to write the rows")
  own, others = parser.parse_known_args(arguments)
  # Sizes of the model are flags of `decode.py`.
  flags = decode.parse(others)
  vars(flags).update(vars(own))
  keep_freed_memory()
  torch.set_num_threads(flags.threads)
  mesh = make_mesh(MeshShape(data=1, expert=1, model=1), jax.devices()[:1])
  rows = []
  for beam_size in map(int, flags.beams.split(",")):
    with tempfile.TemporaryDirectory() as folder:
      rows += compared(flags, beam_size, Path(folder), Partitioning(mesh))
  table = rich.table.Table(*rows[0], title="seconds for one batch")
  for row in rows:
    table.add_row(*(decode.text(value) for value in row.values()))
  rich.console.Console().print(table)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


if __name__ == "__main__":
  main()
