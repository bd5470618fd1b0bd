"""A damaged checkpoint is never taken for a whole one, whatever is damaged."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.runs.checkpoint_items import checksum, checksums
from taskmoe_jax.runs.restoring import restore_params
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.step.state import TrainState

# When one read fails, Orbax leaves its other reads unfinished.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)

POLICY = CheckpointPolicy(every_steps=1, keep=3)
OPTIMIZER = optax.adafactor(0.1, momentum=0.9)


def _state(step):
  params = {"wi": jnp.arange(1200.0).reshape(40, 30) + step, "s": jnp.ones(5)}
  return TrainState(
    jnp.int32(step), params, OPTIMIZER.init(params), jnp.int32(0)
  )


def _shapes():
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), _state(0)
  )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  run_dir = tmp_path_factory.mktemp("written")
  with Checkpoints(run_dir, POLICY) as checkpoints:
    for step in (2, 4):
      checkpoints.save(_state(step), {"batches": step}, {"seed": 3})
  return run_dir


@pytest.fixture
def run_dir(written, tmp_path):
  shutil.copytree(written, tmp_path / "run")
  return tmp_path / "run"


def _equal(state, expected):
  pairs = zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


def _damages(data):
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 0x10
  return {
    "flipped": bytes(flipped),
    "cut": data[: len(data) // 2],
    "gone": None,
  }


@pytest.mark.expensive("it compiles or runs whole programs")
def test_each_file_in_each_way(run_dir, caplog):
  """Either it is seen, or what is read is still, to the bit, what was written.

  Orbax keeps files that it does not need, so both happen.
  """
  caplog.set_level(logging.CRITICAL)
  folder = run_dir / "checkpoints" / "4"
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  seen = set()
  with Checkpoints(run_dir, POLICY) as checkpoints:
    for path in files:
      data = path.read_bytes()
      for kind, damaged in _damages(data).items():
        path.unlink() if damaged is None else path.write_bytes(damaged)
        restored, reason = checkpoints._try_restore(4, _shapes())
        if restored is None:
          assert reason
          seen.add(path.relative_to(folder).parts[0])
        else:
          assert _equal(restored.state, _state(4)), (path, kind)
          assert restored.position == {"batches": 4}, (path, kind)
        path.write_bytes(data)
    assert checkpoints._try_restore(4, _shapes())[0] is not None
  assert seen == {"params", "optimizer", "position", "run", "contents"}


def _flip(run_dir, step):
  """A bit in the largest file, that of the numbers."""
  folder = run_dir / "checkpoints" / str(step) / "params"
  files = [path for path in folder.rglob("*") if path.is_file()]
  path = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def test_the_one_before_is_restored(run_dir, caplog):
  _flip(run_dir, 4)
  # Others pass it over and leave it alone.
  params, step = restore_params(run_dir, _shapes().params)
  assert step == 2
  assert _equal(params, _state(2).params)
  with Checkpoints(run_dir, POLICY) as checkpoints:
    restored = checkpoints.restore(_shapes())
    assert _equal(restored.state, _state(2))
    assert checkpoints.latest_step == 2
    # So that its step can be written again.
    checkpoints.save(_state(4), {"batches": 4}, {"seed": 3})
  assert "checkpoint 4 in" in caplog.text
  assert "is damaged" in caplog.text
  (aside,) = (run_dir / "damaged").iterdir()
  assert aside.name.startswith("4-")
  assert (aside / "params").exists()
  assert restore_params(run_dir, _shapes().params)[1] == 4


def test_nothing_but_damage(run_dir):
  for step in (2, 4):
    _flip(run_dir, step)
  with (
    Checkpoints(run_dir, POLICY) as checkpoints,
    pytest.raises(
      TaskMoeError,
      match=r"all checkpoints in '.*' are damaged \(4, 2\); the newest: .* Cop",
    ),
  ):
    checkpoints.restore(_shapes())
  assert not (run_dir / "damaged").exists()
  with pytest.raises(TaskMoeError, match=r"checkpoint 4 of .* is damaged \("):
    restore_params(run_dir, _shapes().params, 4)


def test_another_optimizer_is_no_damage(run_dir):
  shapes = _shapes()
  other = shapes.replace(optimizer_state=optax.sgd(0.1).init(shapes.params))
  with (
    Checkpoints(run_dir, POLICY) as checkpoints,
    pytest.raises(
      TaskMoeError,
      match=r"checkpoint '.*/4' is of another optimizer: state/0/count is of"
      r" shape \[\] there, and missing in this recipe\. Set OPTIMIZER as it",
    ),
  ):
    checkpoints.restore(other)
  assert not (run_dir / "damaged").exists()
  wider = {**shapes.params, "wi": jax.ShapeDtypeStruct((40, 31), jnp.float32)}
  with pytest.raises(
    TaskMoeError,
    match=r"is of another params: wi is of shape \[40, 30\] there, and of shape"
    r" \[40, 31\] in this recipe\. Set MODEL",
  ):
    restore_params(run_dir, wider)


@pytest.mark.slow
def test_checksums_see_bits_and_places():
  array = jnp.arange(12.0).reshape(3, 4)
  found = {
    int(checksum(other))
    for other in (
      array,
      array.T.reshape(3, 4),
      array[::-1],
      array.at[0, 0].set(-0.0),
      array.at[2, 3].add(1e-6),
      array.at[1, 1].set(jnp.nan),
    )
  }
  assert len(found) == 6
  sums = checksums({"a": {"b": array}, "c": jnp.zeros((), jnp.int32)})
  assert sums == {"a/b": int(checksum(array)), "c": sums["c"]}
  # Of each type that a state may hold.
  for dtype in ("bfloat16", "int32", "bool", "uint8"):
    ones, others = (
      checksums([jnp.asarray(x, dtype)]) for x in ([1, 0, 1], [1, 1, 0])
    )
    assert ones != others


def test_checksums_do_not_depend_on_the_mesh():
  mesh = jax.make_mesh((8,), ("data",))
  spread = jax.sharding.NamedSharding(mesh, jax.P(None, "data"))
  array = jnp.arange(48.0).reshape(3, 16)
  assert checksums([jax.device_put(array, spread)]) == checksums([array])
