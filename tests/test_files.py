import pytest
from etils import epath

from taskmoe_jax.files import write_whole


def test_a_file_is_whole_or_as_it_was(tmp_path):
  path = epath.Path(tmp_path) / "run.json"
  write_whole(path, b"one")
  write_whole(path, b"two")
  assert path.read_bytes() == b"two"
  # Where a folder stands, nothing can be renamed to.
  (tmp_path / "folder" / "inside").mkdir(parents=True)
  with pytest.raises(OSError, match="folder"):
    write_whole(epath.Path(tmp_path) / "folder", b"three")
  assert sorted(found.name for found in tmp_path.iterdir()) == [
    "folder",
    "run.json",
  ]
  with pytest.raises(FileNotFoundError, match=r"nowhere/run\.json\.tmp"):
    write_whole(epath.Path(tmp_path) / "nowhere" / "run.json", b"four")
