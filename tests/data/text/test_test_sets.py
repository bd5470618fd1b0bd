import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import sacrebleu

from taskmoe_jax.data.text import test_sets
from taskmoe_jax.data.text.test_sets import read_test_set
from taskmoe_jax.errors import TaskMoeError

_SGML = """<refset setid="newstest2019" srclang="any" trglang="en">
<doc docid="abendzeitung" genre="news" origlang="de">
<p>
<seg id="1">{}</seg>
<seg id="2">{}</seg>
</p>
</doc>
</refset>
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache of wmt19 and no network."""
  dataset = sacrebleu.DATASETS["wmt19"]
  monkeypatch.setattr(dataset, "_outdir", str(tmp_path / "wmt19"))
  monkeypatch.setattr(dataset, "_rawdir", str(tmp_path / "wmt19" / "raw"))

  def refuse(url):
    raise urllib.error.URLError("no network")

  monkeypatch.setattr(urllib.request, "urlopen", refuse)
  return tmp_path / "wmt19"


def _write(cache, *, sources, references):
  cache.mkdir()
  for field, lines in (("src", sources), ("ref", references)):
    path = cache / f"wmt19.de-en.{field}"
    path.write_text("".join(line + "\n" for line in lines))
  for field in ("docid", "genre", "origlang"):
    (cache / f"wmt19.de-en.{field}").write_text("x\n" * len(sources))


def test_what_stands_in_the_cache_is_untouched(cache):
  sources = ["Ein\u2028Haus", " «zwei»\u00a0", "drei\x85"]
  references = ["a  house", "two", "three"]
  _write(cache, sources=sources, references=references)
  assert read_test_set("wmt19", "de-en") == (sources, [references])


def test_several_references(cache, monkeypatch):
  dataset = sacrebleu.DATASETS["wmt19"]
  _write(cache, sources=["eins"], references=["one"])
  files = [str(cache / f"wmt19.de-en.{field}") for field in ("ref", "src")]
  monkeypatch.setattr(dataset, "get_reference_files", lambda pair: files)
  assert read_test_set("wmt19", "de-en") == (["eins"], [["one"], ["eins"]])


def test_it_is_downloaded_and_unpacked_by_sacrebleu(cache, monkeypatch):
  dataset = sacrebleu.DATASETS["wmt19"]

  def download():
    source, reference = dataset.langpairs["de-en"]
    (cache / "raw" / source).parent.mkdir(parents=True)
    (cache / "raw" / source).write_text(_SGML.format("Ein Haus", "  Zwei"))
    (cache / "raw" / reference).write_text(_SGML.format("A house", "Two"))

  monkeypatch.setattr(dataset, "maybe_download", download)
  assert read_test_set("wmt19", "de-en") == (
    ["Ein Haus", "Zwei"],
    [["A house", "Two"]],
  )


def test_no_network_and_nothing_in_the_cache(cache):
  for _ in range(2):  # The first try must leave nothing that the second takes.
    with pytest.raises(TaskMoeError) as error:
      read_test_set("wmt19", "de-en")
    assert str(error.value) == (
      f"sacrebleu's test set wmt19 de-en is not in {cache} and cannot be"
      " downloaded (<urlopen error no network>). Where there is a network run"
      " `sacrebleu -t wmt19 -l de-en --echo src`, then copy that folder here;"
      " the environment variable SACREBLEU says where else to look."
    )


def test_download_with_another_checksum(cache, monkeypatch):
  def serve(url):
    return open(__file__, "rb")

  monkeypatch.setattr(urllib.request, "urlopen", serve)
  with pytest.raises(TaskMoeError, match="MD5 sum of downloaded file was inco"):
    read_test_set("wmt19", "de-en")


@pytest.mark.parametrize(
  ("sources", "references", "sizes"),
  [(["eins", "zwei"], ["one"], "2 and 1"), (["eins"], ["one", "2"], "1 and 2")],
)
def test_half_a_test_set(cache, sources, references, sizes):
  _write(cache, sources=sources, references=references)
  with pytest.raises(TaskMoeError) as error:
    read_test_set("wmt19", "de-en")
  assert str(error.value) == (
    f"{cache}/wmt19.de-en.src: the source and the references of wmt19 de-en"
    f" have {sizes} lines: not the whole test set, as after an interrupted"
    f" download. Delete {cache} and run again."
  )


def test_names_and_pairs():
  assert {"wmt14", "wmt19", "wmt20/dev"} <= set(test_sets.test_set_names())
  pairs = test_sets.test_set_pairs("wmt19")
  assert {"de-en", "en-kk", "de-fr"} <= set(pairs)
  with pytest.raises(
    TaskMoeError, match=r"unknown sacrebleu test set 'wmt91': .* wmt19"
  ):
    test_sets.test_set_pairs("wmt91")
  with pytest.raises(
    TaskMoeError, match=r"unknown pair of sacrebleu's wmt19 'en-es': accepted"
  ):
    read_test_set("wmt19", "en-es")


def test_it_needs_no_tensorflow():
  code = (
    "import sys; from taskmoe_jax.data.text import test_sets;"
    "sys.exit(bool({'tensorflow', 'seqio'} & set(sys.modules)))"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
