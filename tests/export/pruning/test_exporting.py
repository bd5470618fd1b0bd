"""Pruned models: what they compute, and how they are written and scored."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.pruning import exporting
from taskmoe_jax.export.pruning.choosing import (
  PruneMetric,
  Pruning,
  prunable_stacks,
  prune,
)
from taskmoe_jax.export.pruning.exporting import export_pruned
from taskmoe_jax.export.pruning.statistics import (
  gate_statistics,
  mean_scores,
  use_in_training,
)
from taskmoe_jax.export.verify import reference_batch
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.statistics import GateStatistics

HALF = {"rate": 0.4, "by": "task", "layers": "even", "metric": "importance"}


@functools.partial(jax.jit, static_argnames="config")
def run_model(params, batch, *, config):
  """Logits, and statistics by stack."""
  ids = jnp.zeros(batch["encoder_input_tokens"].shape[0], jnp.int32)
  model = Transformer(config, 3)
  return model.apply({"params": params}, batch, ids, train=False)


@pytest.mark.expensive("it compiles models")
def test_experts_that_nobody_chose_may_go(mixture_of, vocabulary):
  """Then nothing changes, though blocks keep different numbers of experts."""
  mixture = mixture_of("sentence", "token")
  batch = reference_batch([("abc", "hg")], "en-de", vocabulary)
  logits, statistics = run_model(mixture.params, batch, config=mixture.model)
  kept = {
    name: [np.flatnonzero(row) for row in found.task_choices.sum(1)]
    for name, found in statistics.items()
  }
  # Three tokens of two blocks; one sentence has two experts in each.
  assert [len(ids) for ids in kept["encoder"]] == [2, 2]
  counts = [len(ids) for ids in kept["decoder"]]
  assert min(counts) < max(counts) or max(counts) < 5, counts
  params, config = prune(mixture.params, mixture.model, kept)
  assert config.encoder.moe.num_experts == 2
  assert config.decoder.moe.num_experts == max(counts)
  assert config.decoder.moe.has_padding == (min(counts) < max(counts))
  small, _ = run_model(params, batch, config=config)
  valid = batch["decoder_loss_weights"] > 0
  np.testing.assert_allclose(small[valid], logits[valid], rtol=0, atol=1e-5)
  # An expert that somebody chose may not.
  kept["encoder"][1] = np.setdiff1d(np.arange(5), kept["encoder"][1])[:2]
  params, config = prune(mixture.params, mixture.model, kept)
  other, _ = run_model(params, batch, config=config)
  assert np.abs(other - logits)[valid].max() > 1e-2


@pytest.fixture(scope="module")
def statistics(mixture_of):
  """Of a mixture, and how often its progress was told of how many."""
  mixture = mixture_of("sentence", "token")
  told = []
  found = gate_statistics(
    mixture,
    {"en-de": [("abc", "cba"), ("hg", "fe")], "fr-en": [("abc", "cba")]},
    progress=told.append,
  )
  return mixture, found, told


@pytest.mark.slow
def test_statistics_of_pairs(statistics, vocabulary):
  """The symbol, three letters, the end: that many tokens choose in a block."""
  mixture, found, told = statistics
  assert told == [2, 1]
  lengths = {"en-de": 0, "fr-en": 0}
  for pair, line in (("en-de", "abc"), ("en-de", "hg"), ("fr-en", "abc")):
    lengths[pair] += len(vocabulary.encode([line])[0])
  for pair, number in (("en-de", 2), ("fr-en", 1)):
    encoder, decoder = found[pair]["encoder"], found[pair]["decoder"]
    np.testing.assert_array_equal(
      encoder.tokens, [lengths[pair] + 2 * number] * 2
    )
    np.testing.assert_array_equal(decoder.tokens, [lengths[pair] + number] * 2)
  batch = reference_batch([("abc", "cba")], "fr-en", vocabulary)
  _, routing = run_model(mixture.params, batch, config=mixture.model)
  for name, of_stack in found["fr-en"].items():
    np.testing.assert_allclose(of_stack.activity.sum(1), 1, rtol=1e-6)
    # First choices are among all choices, and the best of five has a fifth.
    choices = routing[name].task_choices.sum(1)
    assert (of_stack.first_choices <= choices).all()
    chosen = of_stack.first_choices > 0
    assert (of_stack.confidence[chosen] > 0.2).all()
    assert (of_stack.confidence[~chosen] == 0).all()


def test_scores_by_hand():
  """Two pairs; each counts alike, though one has more tokens."""
  long = GateStatistics(
    np.array([8.0]), np.array([[6.0, 2]]), np.array([[3.0, 1.8]])
  )
  short = GateStatistics(
    np.array([1.0]), np.array([[0.0, 1]]), np.array([[0, 0.7]])
  )
  both = [long, short]
  expected = {
    "activity": [(0.75 + 0) / 2, (0.25 + 1) / 2],
    "confidence": [(0.5 + 0) / 2, (0.9 + 0.7) / 2],
    "importance": [
      0.75 * np.exp(0.5) / 2,
      (0.25 * np.exp(0.9) + np.exp(0.7)) / 2,
    ],
  }
  for metric, scores in expected.items():
    found = mean_scores(both, PruneMetric(metric))
    np.testing.assert_allclose(found, [scores], rtol=1e-6)


@pytest.mark.slow
def test_use_in_training(mixture_of, tmp_path):
  """Steps 20 to 40 of the log, and what else it says is passed over."""
  stacks = prunable_stacks(mixture_of("task", "token").model)
  name = "routing/decoder/layer_{}/task/{}/load"

  def row(step, first, second):
    loads = {"de": first, "fr": second}
    return {
      "step": step,
      **{name.format(1, task): load for task, load in loads.items()},
      **{name.format(3, task): load[::-1] for task, load in loads.items()},
    }

  rows = [
    row(10, [1.0, 0.0], [1.0, 0.0]),
    row(20, [0.25, 0.75], [0.5, 0.5]),
    {"step": 30, "eval/loss": 2.0},
    row(40, [0.75, 0.25], [0.0, 1.0]),
    row(50, [1.0, 0.0], [1.0, 0.0]),
  ]
  log = tmp_path / "metrics.jsonl"
  log.write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = use_in_training(tmp_path, stacks, ["de", "fr"], 40)
  np.testing.assert_allclose(found["decoder"], [[0.375, 0.625], [0.625, 0.375]])
  with pytest.raises(
    TaskMoeError, match=r"does not say .*/task/en/load.*'impo"
  ):
    use_in_training(tmp_path, stacks, ["en"], 40)


@pytest.fixture
def exported(mixture_of, samples, tmp_path, monkeypatch):
  """Prunes a mixture of random weights, as if it were the run `tmp_path`."""
  asked = []

  def read_text(part, pairs, limit):
    asked.append((part, tuple(pairs), limit))
    return {pair: samples[pair][:limit] for pair in pairs}

  def scores_of(translator, text, *, progress):
    """Its experts, in place of a translation's BLEU."""
    experts = float(translator.model.encoder.moe.num_experts)
    return {pair: {"bleu": experts, "chrf": 2 * experts} for pair in text}

  def run(tasks, encoder="sentence", decoder="token", **changes):
    mixture = mixture_of(encoder, decoder)
    monkeypatch.setattr(
      exporting, "load_translator", lambda *_, step: (mixture, step or 30)
    )
    monkeypatch.setattr(exporting, "score_pairs", scores_of)
    settings = {"examples": 2, "scored": 1, **changes}
    pruning = Pruning.named(**{**HALF, **settings.pop("pruning", {})})
    return export_pruned(tmp_path, pruning, read_text, tasks=tasks, **settings)

  return run, asked


@pytest.mark.slow
def test_a_pruned_bundle(exported, tmp_path, capsys):
  run, asked = exported
  (row,) = run("en-de", pruning={"by": "language"})
  # Ranked by all pairs from English and into German; scored on its own.
  ranked = ("en-de", "en-fr")
  assert asked == [("validation", ranked, 2), ("test", ("en-de",), 1)]
  folder = tmp_path / "pruned-30" / "en-de"
  assert row.kept == {"encoder": [3, 3], "decoder": [3, 3]}
  # Two experts of 8·6·2 weights and columns of 8, in two blocks, twice.
  full, kept = row.parameters
  assert full - kept == 2 * 2 * 2 * (96 + 8)
  loaded = taskmoe_jax.load(folder)
  assert loaded.model.encoder.moe.num_experts == 3
  assert loaded.task_space.pairs == ("en-de",)
  manifest = json.loads((folder / "manifest.json").read_text())
  for stack in ("encoder", "decoder"):
    layers = manifest["stacks"][stack]["layers"]
    assert [layer["layer"] for layer in layers] == [1, 3]
    assert [len(set(layer["experts"])) for layer in layers] == [3, 3]
  assert manifest["pruning"] == {
    **HALF,
    "by": "language",
    "encoder_share": None,
  }
  assert manifest["check"] == {
    "exact": False,
    "mixture": {"en-de": {"bleu": 5, "chrf": 10}},
    "bundle": {"en-de": {"bleu": 3, "chrf": 6}},
  }
  assert manifest["scores"] == {"en-de": 3}
  printed = capsys.readouterr().out
  for shown in ("3/5", "5.00", "6.00", f"bundles in {tmp_path / 'pruned-30'}"):
    assert shown in printed
  with pytest.raises(TaskMoeError, match="en-de' exists and is left"):
    run("en-de", pruning={"by": "pair"})


@pytest.mark.slow
def test_pruned_by_use_and_reduced_to_a_task(exported, tmp_path, capsys):
  """No text is read; of the decoder the task's two experts are left."""
  run, asked = exported
  by_use = {"decoder": "static", "encoder": "token", "scored": 0}
  by_use["pruning"] = {"metric": "use"}
  with pytest.raises(TaskMoeError, match=r"metrics\.jsonl' does not say"):
    run("fr", **by_use)
  loads = {1: [0.4, 0.0, 0.3, 0.1, 0.2], 3: [0.0, 0.1, 0.2, 0.3, 0.4]}
  log = {"step": 30} | {
    f"routing/encoder/layer_{layer}/task/fr/load": load
    for layer, load in loads.items()
  }
  (tmp_path / "metrics.jsonl").write_text(json.dumps(log))
  (row,) = run("fr", **by_use)
  assert asked == []
  assert row.scores == {}
  folder = tmp_path / "pruned-30" / "fr"
  loaded = taskmoe_jax.load(folder)
  assert loaded.model.decoder.moe is None
  assert loaded.task_space.tasks == ("fr",)
  manifest = json.loads((folder / "manifest.json").read_text())
  layers = manifest["stacks"]["encoder"]["layers"]
  assert [layer["experts"] for layer in layers] == [[0, 2, 4], [2, 3, 4]]
  assert " - " in capsys.readouterr().out


@pytest.mark.slow
def test_too_few_sentences(exported):
  run, _ = exported
  with pytest.raises(TaskMoeError, match=r"0 examples are too few.*examples"):
    run("de", examples=0)
  with pytest.raises(TaskMoeError, match="prune_score=-1 is below 0"):
    run("de", scored=-1)
