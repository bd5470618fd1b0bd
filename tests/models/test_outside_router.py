"""Routers from outside the package, by gin alone, through all commands."""

import json
import re
import subprocess
import sys

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.moe.granularity import granularity_from_json
from taskmoe_jax.runs.directory import load_run

# Tokens with an even id have the first experts; a task has the experts that the
# fixed table would deal to the task before it.
ROUTERS = """
import dataclasses

import jax.numpy as jnp
import numpy as np

from taskmoe_jax.moe.granularity import FixedTable, TaskTable


@dataclasses.dataclass(frozen=True)
class ByParity(FixedTable):
  unit = "token id's parity"
  by_token = True
  reads_token_ids = True

  first: int = 0

  def experts(self, inputs, num_tasks, settings):
    start = self.first + inputs.token_ids % 2
    choices = jnp.arange(settings.num_selected)
    return jnp.add.outer(start, choices) % settings.num_experts


@dataclasses.dataclass(frozen=True)
class ByNeighbor(TaskTable):
  shift: int

  def task_experts(self, num_tasks, settings):
    tasks = (np.arange(num_tasks) + self.shift) % num_tasks
    choices = np.arange(settings.num_selected)
    start = np.outer(tasks, [settings.num_selected])
    return ((start + choices) % settings.num_experts).astype(np.int32)
"""


@pytest.fixture(scope="module")
def routers(tmp_path_factory):
  """A module of another project, on the path."""
  folder = tmp_path_factory.mktemp("project")
  (folder / "outside_routers.py").write_text(ROUTERS)
  sys.path.insert(0, str(folder))
  yield folder
  sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def run_dir(routers, small_recipe, taskmoe, tmp_path_factory):
  """Two steps, the encoder by parity and the decoder by the table."""
  folder = tmp_path_factory.mktemp("outside")
  recipe = folder / "outside.gin"
  recipe.write_text(
    small_recipe.read_text().replace(
      "from taskmoe_jax.models import config\n",
      "from taskmoe_jax.models import config\n"
      "from taskmoe_jax.moe import config as moe\n"
      "import outside_routers\n",
    )
    + "encoder/moe.MoeConfig.granularity = @outside_routers.ByParity()\n"
    "decoder/moe.MoeConfig.granularity = @outside_routers.ByNeighbor()\n"
    "outside_routers.ByParity.first = 1\n"
    "outside_routers.ByNeighbor.shift = 2\n"
  )
  taskmoe(
    "train",
    f"--gin_file={recipe}",
    f"--gin.RUN_DIR={folder / 'run'}",
    "--gin.config.StackConfig.mlp_dims=()",
    "--gin.config.StackConfig.num_layers=1",
  )
  return folder / "run"


@pytest.mark.expensive("it compiles or runs whole programs")
def test_a_run_says_how_to_import_them(run_dir):
  model = json.loads((run_dir / "run.json").read_text())["model"]
  assert model["encoder"]["moe"]["granularity"] == {
    "class": "outside_routers:ByParity",
    "parameters": {"first": 1},
  }
  run = load_run(run_dir)
  encoder, decoder = run.model.encoder.moe, run.model.decoder.moe
  assert (str(encoder.granularity), encoder.granularity.first) == (
    "ByParity",
    1,
  )
  assert decoder.granularity.by_task
  assert decoder.granularity.has_sub_network


def test_inspect_shows_them(run_dir, taskmoe, capsys):
  taskmoe("inspect", f"--run_dir={run_dir}")
  printed = capsys.readouterr().out
  assert (
    "encoder: each token id's parity chooses among all 4 experts" in printed
  )
  assert "decoder: experts of each task, and their gates" in printed
  # The tasks are en, de and fr, and have the experts of fr, en and de.
  rows = re.findall(r"│ (en|de|fr) +│ (\S+ +\S+) +│", printed)
  assert {task: experts.split() for task, experts in rows} == {
    "en": ["0:0.50", "1:0.50"],
    "de": ["0:0.50", "1:0.50"],
    "fr": ["2:0.50", "3:0.50"],
  }


def test_report_shows_them(run_dir, taskmoe):
  taskmoe("report", f"--run_dir={run_dir}")
  page = (run_dir / "report-2.html").read_text()
  assert "Each token id&#x27;s parity has its experts, so these are" in page
  assert "Dealt out by a fixed table: a task&#x27;s experts have" in page


@pytest.mark.expensive("it compiles or runs whole programs")
def test_evaluate_and_export_load_them(run_dir, taskmoe):
  taskmoe("evaluate", f"--run_dir={run_dir}", "--pairs=en-de")
  taskmoe("export", f"--run_dir={run_dir}", "--tasks=de")
  manifest = json.loads(
    (run_dir / "export-2" / "de" / "manifest.json").read_text()
  )
  stacks = manifest["stacks"]
  assert stacks["encoder"]["reason"].startswith("it is routed by ByParity:")
  assert stacks["decoder"]["granularity"] == "ByNeighbor"
  assert stacks["decoder"]["becomes"] == "dense"


def test_a_process_without_the_module_says_so(run_dir):
  code = (
    "from taskmoe_jax.runs.directory import load_run; import sys;"
    " load_run(sys.argv[1])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, run_dir], capture_output=True, text=True
  )
  assert done.stderr.splitlines()[-1] == (
    "taskmoe_jax.errors.TaskMoeError: the granularity"
    " 'outside_routers:ByParity' cannot be imported: No module named"
    " 'outside_routers'. Add the folder of the module 'outside_routers' to"
    " PYTHONPATH."
  )


@pytest.mark.parametrize(
  ("path", "parameters", "message"),
  [
    (
      "outside_routers:ByOdd",
      {},
      r"'outside_routers:ByOdd' cannot be imported: module 'outside_routers'"
      r" has no attribute 'ByOdd'\. Add the folder",
    ),
    (
      "pathlib:Path",
      {},
      r"^'pathlib:Path' is not a subclass of"
      r" taskmoe_jax\.moe\.granularity\.Granularity, .* module 'pathlib'\.$",
    ),
    (
      "outside_routers:ByParity",
      {"last": 3},
      r"does not accept its saved parameters {'last': 3}: .*'last'\. Restore"
      r" the module 'outside_routers' as it was",
    ),
  ],
)
def test_what_cannot_be_loaded(routers, path, parameters, message):
  with pytest.raises(TaskMoeError, match=message):
    granularity_from_json({"class": path, "parameters": parameters})
