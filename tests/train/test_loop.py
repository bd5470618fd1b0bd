"""The training loop, started by its own arguments."""

import functools
import io
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console

from taskmoe_jax.data.text.vocabulary_training import VocabularySource
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape
from taskmoe_jax.runs.directory import load_samples
from taskmoe_jax.runs.restoring import load_translator
from taskmoe_jax.train import loop
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.hooks.divergence import DivergencePolicy
from taskmoe_jax.train.initial import InitialParameters
from taskmoe_jax.train.optimizers import adafactor
from taskmoe_jax.vocabulary import EOS_ID

pytestmark = pytest.mark.bit_for_bit

BATCHES = {
  "batch_size": 8,
  "rows_per_task_group": 2,
  "source_length": 24,
  "target_length": 20,
  "pack": True,
  "num_microbatches": 1,
}


@pytest.fixture(autouse=True)
def one_device(use_devices, steps_compiled_once):
  use_devices(1)


@pytest.fixture
def train(small_corpus, small_vocabulary, model_config, monitoring, tmp_path):
  """Trains a dense model, the quickest to compile, unless told otherwise."""
  from taskmoe_jax.tasks.tsv import tsv

  def train(folder=small_corpus, batches=(), **changes):
    stack = StackConfig(num_layers=1, mlp_dims=(7,))
    console = rich.console.Console(file=io.StringIO(), width=200)
    settings = {
      "model": model_config(vocab_size=296, encoder=stack, decoder=stack),
      "mixture": tsv(str(folder), vocabulary=None, temperature=1.0),
      "vocabulary": VocabularySource(
        path=str(small_vocabulary), size=293, num_sentences=9, seed=0
      ),
      "task_by": "target",
      "batches": loop.BatchShape(**{**BATCHES, **dict(batches)}),
      "optimizer": lambda stacked_axes: adafactor(
        optax.constant_schedule(0.01),
        parameter_scale=True,
        stacked_axes=stacked_axes,
      ),
      "mesh": MeshShape(),
      "fsdp": False,
      "train_steps": 4,
      "objective": Objective(label_smoothing=0.1, z_loss_weight=0.0),
      "seed": 0,
      "log_every": 2,
      "checkpoints": CheckpointPolicy(every_steps=2, keep=3),
      "monitoring": monitoring(),
      "initial": InitialParameters(run_dir=None, step=None, include=""),
      "divergence": DivergencePolicy(
        stop_after_skipped=3,
        spike_factor=None,
        spike_window=1,
        max_rollbacks=0,
        stall_minutes=None,
      ),
      "run_dir": str(tmp_path / "run"),
      "config_text": "SEED = 0\n",
      "console": console,
      **changes,
    }
    return loop.train(**settings), console.file.getvalue()

  return train


@pytest.mark.expensive("it compiles models")
def test_a_run_from_beginning_to_end(train, tmp_path):
  result, printed = train()
  run_dir = tmp_path / "run"
  assert result.run_dir == str(run_dir)
  assert result.step == 4
  assert result.seconds > 0
  assert result.tokens_per_second > 0
  # Table, two stacks of attention (N·H = 6), ReLU network and norms; the
  # decoder attends twice. 32 buckets of distance for 2 heads a stack.
  attention, network, norm = 4 * 8 * 6, 2 * 8 * 7, 8
  encoder = attention + network + 2 * norm + norm + 32 * 2
  decoder = 2 * attention + network + 3 * norm + norm + 32 * 2
  assert result.parameters == 296 * 8 + encoder + decoder
  assert (
    "4 pairs, 3 tasks, mesh {'slice': 1, 'data': 1, 'expert': 1, 'model': 1}"
    in printed
  )
  assert [line[:8] for line in printed.splitlines()[1:]] == [
    "text liv",  # live from which mixture
    "step 2/4",
    "step 4/4",
  ]
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  reports = [json.loads(line) for line in lines]
  assert [report["step"] for report in reports] == [2, 4]
  for report in reports:
    assert report["learning_rate"] == pytest.approx(0.01)
    assert report["tokens_per_second"] > 0
    assert report["data/skipped_too_long"] == 0
    assert "tokens" not in report
    assert report["examples_per_second"] > 0
    # What a CPU's peak is, nobody knows.
    assert "mfu" not in report
    lost = [x for name, x in report.items() if name.startswith("time/")]
    assert report["goodput"] == pytest.approx(1 - sum(lost))
    assert report["time/compilation"] > 0
    assert report["time/evaluation"] == 0
    assert 0.1 < report["memory/host_peak_gb"] < 64
  # Eight rows a step, in each at least one sentence.
  assert 32 <= reports[1]["data/examples"] > reports[0]["data/examples"]
  assert (run_dir / "config.gin").read_text() == "SEED = 0\n"
  assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {
    "2",
    "4",
  }


@pytest.mark.expensive("it compiles models")
def test_resuming_and_having_finished(train, tmp_path):
  train(train_steps=2)
  result, printed = train(train_steps=3, config_text="SEED = 0\n# more\n")
  assert "resuming: step 2 restored from" in printed
  assert result.step == 3
  # More steps than asked for are no mistake; nothing is left to do.
  result, printed = train(train_steps=1)
  assert "resuming: step 3 restored from" in printed
  assert (result.step, result.tokens_per_second) == (3, 0.0)
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [2, 3]


@pytest.mark.expensive("it compiles models")
def test_evaluation_on_the_way(train, monitoring, small_corpus, tmp_path):
  """Every two steps and at the last; a report of its own in between."""
  _, printed = train(
    train_steps=3,
    log_every=1,
    checkpoints=CheckpointPolicy(every_steps=3, keep=1),
    monitoring=monitoring({"every_steps": 2, "bleu_examples": 2}),
  )
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  first, *evaluated = map(json.loads, lines)
  assert not any(name.startswith("eval/") for name in first)
  pairs = ("en-de", "de-en", "en-fr", "fr-en")
  for report in evaluated:
    for name in ("loss", "accuracy", "bleu"):
      of_pairs = {pair: report[f"eval/{name}/pair/{pair}"] for pair in pairs}
      # Every pair counts the same, whatever its number of tokens.
      assert report[f"eval/{name}"] == pytest.approx(sum(of_pairs.values()) / 4)
      into, out_of = (
        (of_pairs[pair] + of_pairs[other]) / 2
        for pair, other in (("de-en", "fr-en"), ("en-de", "en-fr"))
      )
      assert report[f"eval/{name}/xx-en"] == pytest.approx(into)
      assert report[f"eval/{name}/en-xx"] == pytest.approx(out_of)
  assert evaluated[0]["eval/loss"] != evaluated[1]["eval/loss"]
  assert evaluated[1]["time/evaluation"] > 0
  assert "eval loss" in printed
  # The loss again, sentence by sentence, with the last parameters.
  assert evaluated[1]["eval/loss/pair/fr-en"] == pytest.approx(
    _loss_one_by_one(tmp_path / "run", small_corpus / "en-fr.dev.tsv"),
    rel=1e-5,
  )


def _loss_one_by_one(run_dir, path):
  """Of the first three sentences of a file, from French into English."""
  translator, _ = load_translator(run_dir)
  vocabulary, space = translator.vocabulary, translator.task_space
  model = Transformer(translator.model, len(space.tasks))
  # One program for each length, in place of one for each operation of it.
  apply = jax.jit(functools.partial(model.apply, train=False))
  loss = tokens = 0
  for line in path.read_text().splitlines()[:3]:
    english, french = line.split("\t")
    source, target = vocabulary.encode([french, english])
    source = np.array([[vocabulary.target_id("en"), *source, EOS_ID]], np.int32)
    target = np.array([[*target, EOS_ID]], np.int32)
    batch = {
      "encoder_input_tokens": source,
      "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
      "decoder_loss_weights": np.ones(target.shape, np.float32),
    }
    logits, _ = apply(
      {"params": translator.params},
      batch,
      jnp.array([space.task_id("en")], jnp.int32),
    )
    logs = np.asarray(jax.nn.log_softmax(logits[0]))
    loss -= float(logs[np.arange(target.size), target[0]].sum())
    tokens += target.size
  return loss / tokens


@pytest.mark.expensive("it compiles or runs whole programs")
def test_samples_are_of_the_best_part_there_is(train, small_corpus, tmp_path):
  """Of German all parts, of French the train part only."""
  folder = tmp_path / "corpus"
  folder.mkdir()
  for name in ("en-de.train", "en-de.dev", "en-fr.train"):
    os.symlink(small_corpus / f"{name}.tsv", folder / f"{name}.tsv")
  train(folder, train_steps=1)
  samples = load_samples(tmp_path / "run")
  for pair, name, first, second, number in (
    ("en-de", "en-de.dev", 0, 1, 6),
    ("fr-en", "en-fr.train", 1, 0, 8),
  ):
    lines = (folder / f"{name}.tsv").read_text().splitlines()[:number]
    columns = [line.split("\t") for line in lines]
    assert samples[pair] == [(row[first], row[second]) for row in columns]


@pytest.mark.parametrize(
  ("batches", "changes", "message"),
  [
    (
      {},
      {"log_every": 3},
      r"every_steps=2 is not a multiple of log_every=3, so .* LOG_EVERY\.",
    ),
    ({}, {"log_every": 0}, "is not a multiple of log_every=0"),
    ({}, {"train_steps": 0}, "train_steps=0 is not at least 1"),
    ({"source_length": 2}, {}, "source_length=2 is not at least 3"),
    (
      {"rows_per_task_group": 3},
      {},
      "a batch of 8 rows is not a multiple of 3, the rows of one task",
    ),
  ],
)
def test_mistakes_stop_before_anything_is_written(
  train, tmp_path, batches, changes, message
):
  with pytest.raises(TaskMoeError, match=message):
    train(batches=batches, **changes)
  assert not (tmp_path / "run" / "run.json").exists()


def test_rows_that_devices_cannot_share(train, use_devices):
  use_devices(3)
  with pytest.raises(
    TaskMoeError,
    match=r"a batch of 8 rows does not divide over 3 devices\. Set BATCH_SIZE"
    r" to a multiple of 3, or MeshShape\.",
  ):
    train()


@pytest.mark.slow
def test_a_mistake_in_the_text_stops_the_run(train, small_corpus, tmp_path):
  """Raised in the thread that makes batches."""
  with pytest.raises(TaskMoeError, match=r"no example of .* fits into a row"):
    train(batches={"source_length": 3, "target_length": 2})


@pytest.mark.expensive("it compiles models")
def test_learning_rate_and_histograms_are_of_the_last_update(train, monitoring):
  """optax counts updates from 0, so the second has number 1."""
  schedule = optax.linear_schedule(0.0, 1.0, 10)
  result, _ = train(
    train_steps=2,
    log_every=1,
    optimizer=lambda stacked_axes: adafactor(
      schedule, parameter_scale=True, stacked_axes=stacked_axes
    ),
    monitoring=monitoring(histograms_every=2),
  )
  with open(f"{result.run_dir}/metrics.jsonl") as file:
    first, second = map(json.loads, file)
  assert second["learning_rate"] == pytest.approx(float(schedule(jnp.int32(1))))
  params = load_translator(result.run_dir)[0].params
  squares = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = "/".join(key.key for key in path)
    assert f"gradients/{name}/rms" not in first
    squares += leaf.size * second[f"gradients/{name}/rms"] ** 2
    assert second[f"parameters/{name}/rms"] > 0
  assert squares**0.5 == pytest.approx(second["gradient_norm"], rel=1e-5)
