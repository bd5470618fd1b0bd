"""Runs that nobody trained: a checkpoint of random parameters, and a log."""

import json

import orbax.checkpoint as ocp
import pytest

from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.directory import Run, open_run_directory
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary

PAIRS = ("en-de", "de-en", "en-fr", "fr-en")
STEP = 7


@pytest.fixture
def run_of(tiny_model, small_vocabulary, random_params, tmp_path):
  """Makes a run directory; returns it, its run and its parameters."""

  def make(encoder, decoder, reports=()):
    folder = tmp_path / "run"
    space = TaskSpace.from_pairs(PAIRS, "target")
    model = tiny_model(encoder, decoder, vocab_size=300)
    run = Run(model, space, Vocabulary.load(small_vocabulary), 0)
    open_run_directory(folder, run, "# A recipe with <angles>.\n", {})
    params = random_params(Transformer(model, len(space.tasks)))
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(folder / "checkpoints" / str(STEP) / "params", params)
    if reports:
      lines = "".join(f"{json.dumps(report)}\n" for report in reports)
      (folder / "metrics.jsonl").write_text(lines)
    return folder, run, params

  return make
