import gzip
import logging

import pytest

from taskmoe_jax.data.text import text_lines
from taskmoe_jax.data.text.tsv import TsvFolder, open_lines
from taskmoe_jax.errors import TaskMoeError


def _good_lines(count):
  return b"".join(b"a%d\tb%d\n" % (i, i) for i in range(count))


def _open(path, *, columns=2, part="train"):
  return open_lines(path, columns=columns, part=part)


def _write(folder, name, data=b"one\teins\n"):
  folder.mkdir(exist_ok=True)
  (folder / name).write_bytes(data)
  return folder / name


def test_text_stands_as_in_the_file(tmp_path):
  data = " two  spaces \tdeux\u00a0: «\u2028»\nx\u0085y\tz".encode()
  text = _open(_write(tmp_path, "en-fr.dev.tsv", data))
  assert len(text) == 2
  assert text[0] == (" two  spaces ", "deux\u00a0: «\u2028»")
  assert text[1] == ("x\u0085y", "z")
  assert text.report["malformed"] == 0


def test_byte_order_mark_and_crlf_are_taken_off(tmp_path):
  data = b"\xef\xbb\xbfone\teins\r\ntwo\tzwei\r\n"
  text = _open(_write(tmp_path, "en-de.dev.tsv", data))
  assert [text[0], text[1]] == [("one", "eins"), ("two", "zwei")]


def test_gzip(tmp_path):
  data = gzip.compress(b"one\teins\n") + gzip.compress(b"two\tzwei\n")
  text = _open(_write(tmp_path, "en-de.dev.tsv.gz", data))
  assert [text[0], text[1]] == [("one", "eins"), ("two", "zwei")]


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b"alone", "1 columns"),
    (b"", "1 columns"),
    (b"a\tb\tc", "3 columns"),
    (b"ab\xff\tb", "not UTF-8 at byte 3"),
    (b"\tb", "the first column is empty"),
    ("a\t \u00a0\r".encode(), "the second column is empty"),
    (b"a\x00b\tc", "a NUL at byte 2"),
    (b"a\t" + b"b" * 2**20, "1048578 bytes, more than 1048576"),
  ],
)
def test_malformed_line_is_skipped_and_reported(tmp_path, caplog, line, reason):
  data = _good_lines(60) + line + b"\n" + _good_lines(60)
  path = _write(tmp_path, "en-de.train.tsv", data)
  with caplog.at_level(logging.WARNING):
    text = _open(path)
  assert len(text) == 120
  assert text[60] == ("a0", "b0")
  assert text.report["first_malformed"] == [[61, reason]]
  assert caplog.messages == [
    f"{path}:61: skipped: {reason}",
    f"{path}: skipped 1 malformed of 121 lines",
  ]


def test_only_the_first_malformed_lines_are_named(tmp_path, caplog):
  path = _write(tmp_path, "en-de.train.tsv", b"x\n" * 5 + _good_lines(600))
  with caplog.at_level(logging.WARNING):
    _open(path)
  assert [m.split(": ")[0] for m in caplog.messages] == [
    f"{path}:1",
    f"{path}:2",
    f"{path}:3",
    str(path),
  ]
  assert "skipped 5 malformed of 605 lines" in caplog.messages[-1]


def test_up_to_one_percent_may_be_malformed(tmp_path):
  path = _write(tmp_path, "en-de.train.tsv", _good_lines(297) + b"x\n" * 3)
  assert len(_open(path)) == 297
  path.write_bytes(_good_lines(296) + b"x\ty\tz\n" + b"x\n" * 3)
  with pytest.raises(TaskMoeError) as error:
    _open(path)
  assert str(error.value) == (
    f"{path}: 4 of 300 lines are malformed, more than 1 %; the first is line"
    " 297: 3 columns. A line is two columns of UTF-8, neither of them empty,"
    " with one tab between."
  )


@pytest.mark.parametrize("cut", [5, 40, -4])
def test_gzip_that_ends_early(tmp_path, cut):
  data = gzip.compress(_good_lines(50))[:cut]
  path = _write(tmp_path, "en-de.train.tsv.gz", data)
  with pytest.raises(TaskMoeError, match=rf"{path}: not a whole gzip file"):
    _open(path)


def test_changed_byte_in_gzip(tmp_path):
  data = bytearray(gzip.compress(_good_lines(50)))
  data[-6] ^= 1
  path = _write(tmp_path, "en-de.train.tsv.gz", bytes(data))
  with pytest.raises(TaskMoeError, match=rf"{path}: not a whole gzip file"):
    _open(path)


def test_plain_text_called_gz(tmp_path):
  path = _write(tmp_path, "en-de.train.tsv.gz")
  with pytest.raises(TaskMoeError, match=rf"{path}: not a whole gzip file"):
    _open(path)


def test_unreadable_file(tmp_path):
  with pytest.raises(
    TaskMoeError, match=r"none\.tsv: cannot be read \(No such"
  ):
    _open(tmp_path / "none.tsv")


def test_folder_reads_languages_off_the_names(tmp_path):
  _write(tmp_path, "en-de.train.tsv", b"one\teins\n")
  _write(tmp_path, "en-de.test.tsv.gz", gzip.compress(b"two\tzwei\n"))
  _write(tmp_path, "fr-zh_Hant.dev.tsv")
  _write(tmp_path, "counts.tsv", b"not\tparallel\ttext\n")
  _write(tmp_path, "en-de.dev.src.gz")
  _write(tmp_path, "README.md")
  folder = TsvFolder(tmp_path)
  assert folder.pairs == (("en", "de"), ("fr", "zh_Hant"))
  assert folder.parts(("en", "de")) == ("train", "test")
  assert folder.parts(("fr", "zh_Hant")) == ("validation",)
  assert folder.text(("en", "de"), "test")[0] == ("two", "zwei")
  first = folder.text(("en", "de"), "train")
  assert folder.text(("en", "de"), "train") is first


def test_missing_or_empty_folder(tmp_path):
  with pytest.raises(TaskMoeError, match=r"no folder '.*nope'. Set tsv.folder"):
    TsvFolder(tmp_path / "nope")
  with pytest.raises(TaskMoeError, match=r"has no file called xx-yy"):
    TsvFolder(tmp_path)


@pytest.mark.parametrize(
  "name",
  [
    "en-de.valid.tsv",
    "en-de.tsv.gz",
    "en.train.tsv",
    "en-de-fr.dev.tsv",
    "en de.test.tsv.gz",
  ],
)
def test_names_that_look_like_mistakes(tmp_path, name):
  _write(tmp_path, "en-de.train.tsv")
  path = _write(tmp_path, name)
  with pytest.raises(TaskMoeError) as error:
    TsvFolder(tmp_path)
  assert str(error.value).startswith(
    f"{path}: a file of parallel text is called xx-yy.{{train,dev,test}}.tsv"
  )


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("en-en.train.tsv", "both columns are 'en'"),
    ("en-de.train.tsv.gz", "en-de.train.tsv is the same part of the same"),
    ("fr-en.train.tsv", "en-fr.train.tsv is the same part of the same"),
    ("fr-en.dev.tsv", "other files of this pair are called en-fr"),
  ],
)
def test_files_that_contradict_each_other(tmp_path, name, message):
  _write(tmp_path, "en-de.train.tsv")
  _write(tmp_path, "en-fr.train.tsv")
  path = _write(tmp_path, name)
  with pytest.raises(TaskMoeError, match=f"{path}: {message}"):
    TsvFolder(tmp_path)


def test_long_lines_are_text(tmp_path):
  long = "wörd " * 160_000  # 960,000 bytes
  path = _write(tmp_path, "en-de.dev.tsv", f"{long}\tx\na\tb\n".encode())
  text = _open(path, part="validation")
  assert text.read([1, 0]) == [("a", "b"), (long, "x")]


def test_file_without_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(text_lines, "_LONGEST_UNBROKEN", 1000)
  path = _write(tmp_path, "en-de.train.tsv", b"a\tb\nc\td\n" + b"x" * 2000)
  with pytest.raises(TaskMoeError) as error:
    _open(path)
  assert str(error.value) == (
    f"{path}:3: a line of more than 1000 bytes: this is not a file of lines."
  )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters(tmp_path, encoding):
  data = "\ufeffone\teins\n".encode(encoding)
  path = _write(tmp_path, "en-de.train.tsv", data)
  with pytest.raises(TaskMoeError, match=rf"{path}: is UTF-16\. Write it as"):
    _open(path)


def test_text_of_scores_is_taken_whole_or_not_at_all(tmp_path):
  data = _good_lines(200) + b"a\t\n"
  path = _write(tmp_path, "en-de.dev.tsv", data)
  assert len(_open(path)) == 200
  for part in ("validation", "test"):
    with pytest.raises(TaskMoeError) as error:
      _open(path, part=part)
    assert str(error.value).startswith(
      f"{path}: 1 of 201 lines are malformed; the first is line 201: the second"
      " column is empty. Text that scores are of is taken whole or not at all."
    )


def test_text_in_one_language(tmp_path):
  data = "\ufeffein Haus\r\n\n \u3000\nzwei\tHäuser\nü".encode()
  text = _open(_write(tmp_path, "de.train.txt", data), columns=1)
  assert text.read(range(3)) == [
    ("", "ein Haus"),
    ("", "zwei\tHäuser"),
    ("", "ü"),
  ]
  assert (text.report["blank"], text.report["malformed"]) == (2, 0)


def test_faults_of_text_in_one_language(tmp_path, caplog):
  data = b"good\n" * 150 + b"b\xffd\n"
  path = _write(tmp_path, "de.train.txt", data)
  with caplog.at_level(logging.WARNING):
    assert len(_open(path, columns=1)) == 150
  assert caplog.messages[0] == f"{path}:151: skipped: not UTF-8 at byte 2"
  path.write_bytes(data * 2 + b"\xff\n" * 2)
  with pytest.raises(TaskMoeError, match="A line is one column of UTF-8"):
    _open(path, columns=1)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 4096])
def test_lines_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch, block):
  """Against the plainest of readers, on lines of all kinds."""
  kinds = (
    ["é\tb\r", "a\tb", "\u3042\t\u3042", "«x»\t\u2003y", "a\r\tb c"] * 60
    + ["a\t\u2003", "\t", "a\tb\tc"]
    + ["z"]
  )
  data = "\ufeff" + "\n".join(kinds)
  path = _write(tmp_path, f"x{block}.train.tsv", data.encode())
  monkeypatch.setattr(text_lines, "BLOCK_BYTES", block)
  monkeypatch.setattr("taskmoe_jax.data.text.tsv._MALFORMED_LIMIT", 1.0)
  text = _open(path)
  expected, malformed = [], 0
  for line in kinds:
    columns = line.removesuffix("\r").split("\t")
    good = len(columns) == 2 and all(column.strip() for column in columns)
    malformed += not good
    expected += [tuple(columns)] if good else []
  assert text.read(range(len(text))) == expected
  assert [text[i] for i in range(len(text))] == expected
  assert text.report["malformed"] == malformed == 4
  assert text.report["first_malformed"][0] == [
    301,
    "the second column is empty",
  ]
