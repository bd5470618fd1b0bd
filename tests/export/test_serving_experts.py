"""Which experts serve which task: read from a checkpoint's routers alone."""

import dataclasses
import io

import numpy as np
import pytest
import rich.console

from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.serving_experts import (
  experts_of_checkpoint,
  experts_of_config,
  print_experts,
)
from taskmoe_jax.models.config import StackConfig


@pytest.fixture
def lines():
  """What is printed, without the frames of tables."""

  def show(model, by_task):
    console = rich.console.Console(file=io.StringIO(), width=100)
    print_experts(console, model, by_task)
    text = console.file.getvalue()
    for frame in "│┃":
      text = text.replace(frame, "|")
    return [" ".join(line.split()) for line in text.splitlines()]

  return show


@pytest.mark.expensive("it compiles or runs whole programs")
def test_only_routers_are_read(mixture_of, tmp_path, monkeypatch):
  """The checkpoint that `checkpoint_folder` names, and as `extract` has it."""
  import orbax.checkpoint as ocp

  mixture = mixture_of("task", "task_then_token")
  params, space = mixture.params, mixture.task_space
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "checkpoints" / "7" / "params", params)
  monkeypatch.setattr(
    "taskmoe_jax.export.serving_experts.checkpoint_folder",
    lambda run_dir, step: (tmp_path / "checkpoints" / "7", 7),
  )
  found, step = experts_of_checkpoint(tmp_path, mixture.model, space)
  assert step == 7
  for task_id, task in enumerate(space.tasks):
    _, _, wanted = extract(params, mixture.model, (task_id,), len(space.tasks))
    assert found[task].keys() == wanted.keys() == {"encoder", "decoder"}
    for stack, chosen in wanted.items():
      np.testing.assert_array_equal(found[task][stack].experts, chosen.experts)
      assert found[task][stack].layers == chosen.layers == (1, 3)
  np.testing.assert_array_equal(
    found["de"]["encoder"].gates.sum(-1).round(5), [1, 1]
  )
  assert found["de"]["decoder"].gates is None


def test_tables_need_no_checkpoint(mixture_of, lines):
  mixture = mixture_of("static", "task")
  found = experts_of_config(mixture.model, mixture.task_space)
  printed = lines(mixture.model, found)
  assert printed[0] == "encoder: experts of each task, and their gates"
  assert [line for line in printed if line.startswith("| ")] == [
    "| task | layer 1 | layer 3 |",
    "| en | 0:0.50 1:0.50 | 0:0.50 1:0.50 |",
    "| de | 2:0.50 3:0.50 | 2:0.50 3:0.50 |",
    "| fr | 4:0.50 0:0.50 | 4:0.50 0:0.50 |",
  ]
  assert printed[-1] == (
    "decoder: routed by task: which experts serve which task, a checkpoint"
    " says. Set --run_dir."
  )


def test_stacks_whose_tokens_choose(mixture_of, lines):
  dense = StackConfig(num_layers=1, mlp_dims=(7,))
  model = dataclasses.replace(mixture_of("token").model, decoder=dense)
  assert lines(model, {}) == [
    "encoder: each token chooses among all 5 experts",
    "decoder: dense",
  ]
