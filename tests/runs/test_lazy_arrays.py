"""Sub-networks from a checkpoint of which only their experts are read."""

import dataclasses
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.slice_check import (
  compare_numbers,
  gate_difference,
  sums_of_checkpoint,
)
from taskmoe_jax.runs import lazy_arrays
from taskmoe_jax.runs.checkpoint_items import (
  read_contents,
  saved_items,
  text_checksum,
)
from taskmoe_jax.runs.lazy_arrays import LazyArray, read_lazy_params
from taskmoe_jax.task_space import TaskSpace


@pytest.fixture(scope="module")
def mixture(mixture_of):
  """An encoder that is kept whole, and a decoder that is not."""
  return mixture_of("token", "task", activation="gated_gelu")


@pytest.fixture
def folder(mixture, tmp_path):
  """A checkpoint."""
  tmp_path = epath.Path(tmp_path)
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    items = saved_items({"params": mixture.params}, {})
    checkpointer.save(tmp_path / "checkpoints" / "7", args=items)
  return tmp_path / "checkpoints" / "7"


@pytest.fixture
def read(mixture, folder):
  return read_lazy_params(folder, mixture.model, mixture.task_space)


@pytest.fixture
def read_all(mixture, folder):
  """Reads all of the checkpoint."""

  def read():
    params = read_lazy_params(folder, mixture.model, mixture.task_space)
    sums_of_checkpoint(params, folder)

  return read


@pytest.fixture
def extracted(mixture, read, tmp_path):
  """Writes a bundle of tasks, all but its manifest."""

  def make(*task_ids):
    params, config, selected = extract(read, mixture.model, task_ids, 3)
    served = TaskSpace.from_pairs(("en-de", "en-fr")[: len(task_ids)], "target")
    content = bundle.Content(config, params, served, mixture.vocabulary)
    place = epath.Path(tmp_path) / "-".join(map(str, task_ids))
    place.mkdir()
    bundle.write_model(place, content)
    return place, selected

  return make


def _is_stored(leaf):
  return isinstance(leaf, LazyArray)


@pytest.mark.slow
def test_each_expert_lies_by_itself(mixture, read):
  """All else is read, and as it was written."""
  for stack in ("encoder", "decoder"):
    ours = read[stack]["blocks"]["layer_1"]["moe"]["experts"]
    theirs = mixture.params[stack]["blocks"]["layer_1"]["moe"]["experts"]
    assert ours.keys() == theirs.keys() == {"wi", "wi_1", "wo"}
    for name, array in ours.items():
      assert _is_stored(array)
      assert (array.shape, array.nbytes) == (
        theirs[name].shape,
        theirs[name].nbytes,
      )
      chunk = array._store.chunk_layout.read_chunk.shape
      assert chunk == (1, 1, *array.shape[2:])
      kept = np.array([[4, 1, 1], [0, 2, 3]])
      np.testing.assert_array_equal(
        array.take(kept), [theirs[name][b][kept[b]] for b in (0, 1)]
      )
  number = sum(map(_is_stored, jax.tree.leaves(read)))
  assert number == 6
  for ours, theirs in zip(
    jax.tree.leaves(read), jax.tree.leaves(mixture.params), strict=True
  ):
    if not _is_stored(ours):
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("task_ids", [(1,), (1, 2)])
def test_only_chosen_experts_are_read(
  mixture, extracted, task_ids, monkeypatch
):
  """Those that are kept go from file to file, one at a time."""
  sizes = []

  def reading(store, path, read=lazy_arrays._read):
    sizes.append(store.size)
    return read(store, path)

  monkeypatch.setattr(lazy_arrays, "_read", reading)
  place, selected = extracted(*task_ids)
  expert = 8 * 6
  chosen = selected["decoder"].experts.size * expert
  # Three matrices of the decoder; of the encoder 2 x 5 experts of three each.
  assert sizes == [chosen] * 3 + [expert] * 30
  params, config, _ = extract(mixture.params, mixture.model, task_ids, 3)
  found = bundle.read_model(place)
  assert found.model == config
  jax.tree.map(np.testing.assert_array_equal, found.params, params)


@pytest.mark.slow
@pytest.mark.parametrize("task_ids", [(1,), (1, 2)])
def test_numbers_are_compared(mixture, read, folder, extracted, task_ids):
  done = []
  sums = sums_of_checkpoint(read, folder, advance=done.append)
  assert sum(done) == sum(leaf.nbytes for leaf in jax.tree.leaves(read))
  place, selected = extracted(*task_ids)

  def check(task_ids=task_ids, selected=selected):
    return compare_numbers(place, read, mixture.model, task_ids, selected, sums)

  found = check()
  leaves = jax.tree.leaves(bundle.read_model(place).params)
  assert found.arrays == len(leaves)
  assert found.numbers == sum(leaf.size for leaf in leaves)
  assert found.max_gate_difference < 1e-6
  with open(place / "model.safetensors", "r+b") as file:
    file.seek(-5, 2)
    byte = file.read(1)[0]
    file.seek(-5, 2)
    file.write(bytes([byte ^ 1]))
  with pytest.raises(TaskMoeError, match=r"sub-network's .* is not its mix"):
    check()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("encoder", "decoder"),
  [("static", "task"), ("task_then_token", "static"), ("token", "task")],
)
@pytest.mark.parametrize("task_ids", [(1,), (2, 0)])
def test_experts_and_gates_are_computed_anew(
  mixture_of, encoder, decoder, task_ids
):
  """Without the functions of the routers; and others would be noticed."""
  mixture = mixture_of(encoder, decoder)
  _, _, selected = extract(mixture.params, mixture.model, task_ids, 3)
  for name, chosen in selected.items():

    def difference(chosen, name=name):
      stack = getattr(mixture.model, name)
      params = jax.tree.map(np.asarray, mixture.params[name])
      return gate_difference(params, stack, task_ids, chosen)

    assert difference(chosen) < 1e-6
    shifted = (chosen.experts + 1) % 5
    if len(task_ids) == 1 or shifted.shape[1] < 5:
      other = dataclasses.replace(chosen, experts=shifted)
      assert difference(other) > 1e-3
    if chosen.gates is not None and encoder == "token":
      other = dataclasses.replace(chosen, gates=chosen.gates[:, ::-1])
      assert difference(other) > 1e-3


@pytest.mark.slow
def test_every_array_is_compared(mixture, read, folder, extracted):
  """One number of each array in turn is changed in the bundle."""
  sums = sums_of_checkpoint(read, folder)
  place, selected = extracted(1, 2)
  translator = bundle.read_model(place)
  leaves, tree = jax.tree.flatten(translator.params)
  for position, leaf in enumerate(leaves):
    changed = np.array(leaf)
    changed.flat[-1] += 1
    translator.params = jax.tree.unflatten(
      tree, [*leaves[:position], changed, *leaves[position + 1 :]]
    )
    bundle.write_model(place, translator)
    with pytest.raises(TaskMoeError, match=r"sub-network's .* Nothing was wr"):
      compare_numbers(place, read, mixture.model, (1, 2), selected, sums)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused(folder, read_all):
  """Whichever number is not as it was written."""
  contents = folder / "contents" / "metadata"
  written = contents.read_text()
  for path in (
    "encoder/blocks/layer_1/moe/experts/wo",
    "decoder/task_table",
  ):
    read = read_contents(folder)
    wrong = {**read, "params": dict(read["params"])}
    shape, checksum = read["params"][path]
    wrong["params"][path] = [shape, checksum ^ 1]
    contents.write_text(
      json.dumps({"items": wrong, "checksum": text_checksum(wrong)})
    )
    with pytest.raises(
      TaskMoeError,
      match=rf"checkpoint '.*/7' is damaged \(.*params/{path} is not what was"
      r" written\)\. Set --step to another\.",
    ):
      read_all()
    contents.write_text(written)
  (folder / "params" / "d").rmtree()
  with pytest.raises(TaskMoeError, match=r"checkpoint '.*/7' is damaged \("):
    read_all()


@pytest.mark.slow
def test_a_checkpoint_of_another_model(mixture_of, folder):
  other = mixture_of("token", "static")
  with pytest.raises(TaskMoeError, match="is of another params: decoder/"):
    read_lazy_params(folder, other.model, other.task_space)
