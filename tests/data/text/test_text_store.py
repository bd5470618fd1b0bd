import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from taskmoe_jax.data.text import text_store
from taskmoe_jax.data.text.text_store import RECORD, cache_folder, cached_store
from taskmoe_jax.data.text.tsv import open_lines
from taskmoe_jax.errors import TaskMoeError

_TEXT = b"one\teins\ntwo\tzwei\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("TASKMOE_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache" / "text"


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "en-de.train.tsv"
  path.write_bytes(_TEXT)
  return path


def _open(path):
  return open_lines(path, columns=2, part="train")


def _make(texts):
  def make(writer):
    at = 0
    for first, second in texts:
      line = first + b"\t" + second + b"\n"
      writer.text.write(line)
      record = np.array([(at, len(first), len(second))], RECORD)
      writer.records.write(record.tobytes())
      at += len(line)
    return {"seen": len(texts)}

  return make


def test_texts_of_any_characters(cache):
  texts = [("a\tb\n", "\r\0"), ("", "ü"), ("x", ""), ("", "")]
  store = cached_store(
    "odd", {"a": 1}, _make([(a.encode(), b.encode()) for a, b in texts])
  )
  assert len(store) == 4
  assert store.read([2, 0, 1, 0, 3]) == [texts[i] for i in (2, 0, 1, 0, 3)]
  assert store.read([]) == []
  assert store.report == {"seen": 4}
  for index in (-1, 4):
    with pytest.raises(IndexError):
      store[index]


def test_a_file_is_read_through_once(cache, file, monkeypatch):
  _open(file)

  def fail(*_):
    raise AssertionError

  monkeypatch.setattr("taskmoe_jax.data.text.tsv._find_lines", fail)
  assert _open(file)[1] == ("two", "zwei")
  (folder,) = cache.iterdir()
  assert sorted(path.name for path in folder.iterdir()) == [
    "records",
    "report.json",
  ]


def test_a_file_that_has_another_time_or_size_is_read_anew(cache, file):
  first = _open(file)
  file.write_bytes(_TEXT.replace(b"two", b"owt"))
  os.utime(file, ns=(1, 1))
  assert _open(file)[1] == ("owt", "zwei")
  with pytest.raises(
    TaskMoeError, match=f"{file}: has changed since it was op"
  ):
    first.read([0])


def test_a_file_that_becomes_shorter_or_goes_away(cache, file):
  text = _open(file)
  status = file.stat()
  file.write_bytes(_TEXT[:-4])
  with pytest.raises(
    TaskMoeError, match=f"{file}: has changed since it was op"
  ):
    text[1]
  file.write_bytes(_TEXT.replace(b"z", b"\xff"))
  os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
  with pytest.raises(
    TaskMoeError, match=f"{file}: has changed since it was op"
  ):
    text[1]
  file.unlink()
  with pytest.raises(TaskMoeError, match=f"{file}: cannot be read any more"):
    text[1]


def test_a_file_that_changes_while_it_is_read_through(cache, file, monkeypatch):
  scan = text_store.Writer.close

  def append(writer):
    scan(writer)
    with open(file, "ab") as end:
      end.write(b"x\ty\n")

  monkeypatch.setattr(text_store.Writer, "close", append)
  with pytest.raises(
    TaskMoeError, match=f"{file}: has changed while it was re"
  ):
    _open(file)


def test_one_that_fails_leaves_nothing(cache):
  def fail(writer):
    writer.text.write(b"half")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cached_store("half", {}, fail)
  assert list(cache.iterdir()) == []
  assert len(cached_store("half", {}, _make([(b"a", b"b")]))) == 1


def test_two_that_make_the_same(cache):
  def make(writer):
    cached_store("same", {}, _make([(b"first", b"one")]))
    return _make([(b"second", b"one")])(writer)

  # The one within has the name of this process too; as another would not.
  folders = iter(["1", "2"])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_store.os, "getpid", lambda: next(folders))
    store = cached_store("same", {}, make)
  assert store[0] == ("first", "one")
  assert len(list(cache.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(cache):
  code = (
    "import os\nfrom taskmoe_jax.data.text.text_store import cached_store\n"
    "cached_store('killed', {}, lambda writer: os.kill(os.getpid(), 9))"
  )
  run = subprocess.run([sys.executable, "-c", code], check=False)
  assert run.returncode == -9
  (begun,) = cache.iterdir()
  assert begun.name.endswith(".begun")
  cached_store("killed", {}, _make([]))
  assert [path.suffix for path in cache.iterdir()] == [""]


def test_a_cache_that_is_not_whole(cache, file):
  _open(file)
  (folder,) = cache.iterdir()
  with open(folder / "records", "ab") as end:
    end.truncate(20)
  with pytest.raises(
    TaskMoeError, match=r"records is incomplete; .* Set the env.* TASKMOE_CACHE"
  ):
    _open(file)
  (folder / "report.json").write_text("{")
  with pytest.raises(
    TaskMoeError, match=r"text cache .* cannot be written or r"
  ):
    _open(file)


def test_a_cache_that_cannot_be_written(tmp_path, file, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("TASKMOE_CACHE", str(tmp_path / "file"))
  with pytest.raises(TaskMoeError, match="TASKMOE_CACHE to a folder with room"):
    _open(file)


def test_where_the_cache_is(monkeypatch):
  monkeypatch.setenv("TASKMOE_CACHE", "/a")
  assert cache_folder() == pathlib.Path("/a/text")
  monkeypatch.delenv("TASKMOE_CACHE")
  monkeypatch.setenv("XDG_CACHE_HOME", "/b")
  assert cache_folder() == pathlib.Path("/b/taskmoe_jax/text")
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", "/c")
  assert cache_folder() == pathlib.Path("/c/.cache/taskmoe_jax/text")


def test_the_key_is_kept_for_people(cache, file):
  text = _open(file)
  (folder,) = cache.iterdir()
  saved = json.loads((folder / "report.json").read_text())
  assert saved["key"] == text.key
  assert saved["key"]["path"] == str(file)
  assert folder.name.startswith("en-de.train.tsv-")
