"""Text to evaluate on: whole, as it is, or refused."""

import gzip

import pytest

from taskmoe_jax.data.text.test_sets import TestSet
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import texts
from taskmoe_jax.task_space import TaskSpace

SPACE = TaskSpace(("en", "de"), ("en-de", "de-en"))


def of_tsv(path, **changes):
  values = {"part": "test", "pairs": ("de-en",), "space": SPACE, "limit": None}
  return texts.of_tsv(str(path), **{**values, **changes})


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz", ".txt"])
def test_a_file_of_two_columns(tmp_path, ending):
  content = "\ufeffEins \tOne\r\n\tempty\nZwei\u2028\tTwo".encode()
  path = tmp_path / f"mine{ending}"
  path.write_bytes(gzip.compress(content) if ending == ".tsv.gz" else content)
  text = of_tsv(path)
  assert text.name == ("mine.txt" if ending == ".txt" else "mine")
  found = text.pairs["de-en"]
  assert list(found.sources) == ["Eins ", "", "Zwei\u2028"]
  assert [list(lines) for lines in found.references] == [
    ["One", "empty", "Two"]
  ]
  assert list(of_tsv(path, limit=1).pairs["de-en"].sources) == ["Eins "]


def test_a_folder_gives_what_the_model_can_translate(tmp_path):
  for name in ("en-de.test", "en-fr.test", "en-de.dev"):
    (tmp_path / f"{name}.tsv").write_text(f"{name}\tb\n")
  text = of_tsv(tmp_path, pairs=None)
  assert set(text.pairs) == {"en-de", "de-en"}
  assert text.pairs["de-en"].references[0][0] == "en-de.test"
  with pytest.raises(TaskMoeError, match="the model translates no pair of"):
    of_tsv(tmp_path, pairs=None, space=TaskSpace(("fi", "lv"), ("fi-lv",)))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"a\tb\nc\n", r"mine\.tsv:2: 1 columns: a line is source<TAB>reference"),
    (b"a\tb\tc\n", r"mine\.tsv:1: 3 columns"),
    (b"a\tb\n\xff\tb\n", r"mine\.tsv:2: not UTF-8 at byte 1\."),
    (b"", r"mine\.tsv: has no line\. Set --tsv\."),
  ],
)
def test_a_wrong_line_is_never_left_out(tmp_path, content, message):
  path = tmp_path / "mine.tsv"
  path.write_bytes(content)
  with pytest.raises(TaskMoeError, match=message):
    of_tsv(path)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(TaskMoeError, match=r"cannot read .* Set --tsv\."):
    of_tsv(tmp_path / "none.tsv")
  path = tmp_path / "half.tsv.gz"
  path.write_bytes(gzip.compress(b"a\tb\n" * 99)[:-9])
  with pytest.raises(TaskMoeError, match="not a whole gzip file"):
    of_tsv(path)
  with pytest.raises(TaskMoeError, match=r"which pair .* --pairs=de-en\."):
    of_tsv(path, pairs=None)
  with pytest.raises(TaskMoeError, match=r"0 examples are too few"):
    of_tsv(path, limit=0)


def test_sacrebleus_test_sets(monkeypatch):
  read = {}

  def read_test_set(name, pair):
    read[pair] = name
    return TestSet(["Eins", "Zwei"], [["One", "Two"], ["1", "2"]])

  monkeypatch.setattr(texts, "read_test_set", read_test_set)
  text = texts.of_sacrebleu("wmt19", pairs=None, space=SPACE, limit=1)
  assert read == {"de-en": "wmt19", "en-de": "wmt19"}
  assert text.pairs["de-en"].sources == ["Eins"]
  assert text.pairs["de-en"].references == [["One"], ["1"]]
  with pytest.raises(TaskMoeError, match=r"none of .*, the pairs of test set"):
    texts.of_sacrebleu(
      "wmt19", pairs=None, space=TaskSpace(("xx",), ()), limit=None
    )
