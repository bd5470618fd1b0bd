"""The page of a run, and the command that makes it."""

import json
import re

import pytest

from taskmoe_jax.cli.main import main
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.extract import extract
from taskmoe_jax.models.parameters import abstract_params, parameter_count
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.report.page import report, sizes_of, sub_network_config

STEP = 7

LOADS = {
  f"routing/decoder/layer_{layer}/{name}": [0.5, 0.25, 0.25, 0, 0]
  for layer in (1, 3)
  for name in ("load", "task/en/load", "task/de/load", "task/fr/load")
}


def evaluation(folder, step):
  rows = [{"pair": "de-en", "examples": 3, "bleu": 61.5, "chrf": 70.0}]
  averages = {"all": {"pairs": 1, "bleu": 61.5, "chrf": 70.0}}
  results = {"step": step, "averages": averages, "pairs": rows}
  target = folder / "evaluation" / f"test-{step}"
  target.mkdir(parents=True)
  (target / "results.json").write_text(json.dumps(results))


def text_of(page):
  return " ".join(
    re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.S).split()
  )


@pytest.mark.expensive("it compiles models")
def test_a_page_shows_the_whole_run(run_of, capsys):
  loss = {"step": STEP, "loss": 1.5}
  folder, run, _ = run_of("task", "token", [loss | LOADS])
  evaluation(folder, STEP)
  evaluation(folder, 98765)
  assert main(["report", f"--run_dir={folder}"]) == 0
  path = folder / f"report-{STEP}.html"
  assert capsys.readouterr().out == f"page in {path}\n"
  page = path.read_text()
  shown = text_of(page)
  for said in (
    f"{folder}, step {STEP}",
    "4 layers, 2 of them MoE after dense ones of hidden width 7: 5 experts of"
    " hidden width 6, of which 2 are chosen by token",
    "a task is a target language",
    "layer 3: tasks × experts",
    "mean of every two tasks 1.000, largest 1.000",
    "decoder, layer 1: experts × steps, full colour 0.500, even 0.200",
    "test-7 Means: average BLEU 61.50.",
    "# A recipe with &lt;angles&gt;.",
  ):
    assert said in shown, said
  load = "layer {}: experts × steps"
  maps = [shown.index(f"decoder, {load.format(layer)}") for layer in (1, 3)]
  assert maps == sorted(maps)
  assert "test-98765" not in shown
  # Encoder and decoder: 2 layers and how alike tasks are; load of 2; 1 curve.
  assert page.count("<svg") == 2 * 2 + 2 + 2 + 1 + 1
  assert not re.search(r"(src|href)=|@import|url\(", page)
  sizes = sizes_of(run.model, 3)
  assert f"the mixture 4 {sizes.mixture:,}" in shown
  assert f"de 1 {sizes.sub_network:,}" in shown


def test_a_dense_run_says_what_cannot_be_shown(run_of):
  folder, _, _ = run_of(None, None)
  page = report(folder, out=folder / "deep" / "page.html").read_text()
  shown = text_of(page)
  assert shown.count("It is dense: it has no experts") == 4
  for said in (
    "No sub-network can be extracted",
    "metrics.jsonl has no loss.",
    "metrics.jsonl has no load of experts",
    "Nothing has been evaluated at step 7: `taskmoe evaluate --run_dir="
    f"{folder} --step=7` does.",
  ):
    assert said in shown, said
  assert "<svg" not in page


def test_damaged_results_are_named_on_the_page(run_of):
  folder, _, _ = run_of(None, None)
  evaluation(folder, STEP)
  damaged = folder / "evaluation" / "test-7" / "results.json"
  damaged.write_text("{")
  assert "results.json&#x27; is damaged" in report(folder).read_text()
  # As a metric from outside the package, whose module is not here, has it.
  row = {"pair": "de-en", "examples": 3, "not_here:EXACT": 1.0}
  results = {
    "step": STEP,
    "averages": {"all": {"pairs": 1, "not_here:EXACT": 1.0}},
    "scoring": {"metrics": ["not_here:EXACT"]},
    "pairs": [row],
  }
  damaged.write_text(json.dumps(results))
  page = report(folder).read_text()
  assert "metric &#x27;not_here:EXACT&#x27; cannot be imported" in page


def test_mistakes(run_of, fails_with):
  folder, _, _ = run_of(None, None)
  fails_with(
    lambda: report(folder, step=6),
    f"{str(folder)!r} has no checkpoint 6: complete ones are 7. Train it first,"
    " or set --step to one of these.",
  )
  fails_with(
    lambda: report(folder, out=folder),
    f"the page {str(folder)!r} would replace a folder. Set --out to a file.",
  )
  fails_with(
    lambda: report(folder, out=folder / "run.json" / "page.html"),
    f"cannot write the page '{folder}/run.json/page.html' (File exists)."
    " Set --out to another file.",
  )
  fails_with(
    lambda: report(folder.parent),
    f"{str(folder.parent)!r} is not a run directory: it has no run.json. Name"
    " the RUN_DIR of a run that `taskmoe train` has begun.",
  )


@pytest.fixture
def fails_with():
  def check(call, message):
    with pytest.raises(TaskMoeError, match=f"^{re.escape(message)}$"):
      call()

  return check


@pytest.mark.slow
@pytest.mark.parametrize(
  ("encoder", "decoder"),
  [("task", "static"), ("token", "task_then_token")],
)
def test_sizes_are_those_of_extracted_models(
  tiny_model, random_params, encoder, decoder
):
  model = tiny_model(encoder, decoder, vocab_size=300)
  params = random_params(Transformer(model, 3))
  small, config, _ = extract(params, model, (2,), 3)
  sizes = sizes_of(model, 3)
  assert sub_network_config(model) == config
  assert sizes.mixture == parameter_count(params)
  assert sizes.sub_network == parameter_count(small)
  assert sizes.stacks["decoder"] == (
    parameter_count(params["decoder"]),
    parameter_count(small["decoder"]),
  )


@pytest.mark.slow
def test_sizes_where_nothing_can_be_extracted(tiny_model):
  model = tiny_model("token", None, vocab_size=300)
  sizes = sizes_of(model, 3)
  whole = parameter_count(abstract_params(Transformer(model, 3)))
  assert (sizes.mixture, sizes.sub_network) == (whole, None)
