"""Mixtures that are in no recipe, added to one; and that there is no other."""

import pathlib
import re

import pytest

from taskmoe_jax.cli import commands
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import arguments

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "gin" / "recipes").glob("*.gin"))
pytestmark = pytest.mark.usefixtures("wmt_data")


@pytest.fixture(autouse=True)
def gin_folder(tmp_path, monkeypatch):
  """In place of the small gin folder of other tests here: the real one."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "corpus").mkdir()
  for part in ("train", "dev", "test"):
    (tmp_path / "corpus" / f"de-en.{part}.tsv").write_text("ein Haus\ta house")


# Not in a recipe, each is built in its own way; they are added to one.
_ADDED = {
  "mixtures/wmt_32.gin": (),
  "mixtures/text.gin": ("TEXT_FOLDER=corpus",),
  "mixtures/registered.gin": (
    "SEQIO_NAME=wmt_30",
    "SEQIO_MODULES=('taskmoe_jax.tasks.wmt',)",
    "SEQIO_PAIRS={'wmt_de_en': 'de-en'}",
  ),
}


@pytest.mark.parametrize("file", _ADDED)
def test_mixtures_that_are_added_to_a_recipe(file, tmp_path):
  from taskmoe_jax.data.seqio import sources
  from taskmoe_jax.tasks import wmt
  from taskmoe_jax.train import loop

  (tmp_path / "corpus" / "de.train.txt").write_text("ein Haus")
  wmt.wmt_30(
    None, temperature=1.0, data_dir=None, cleaning=None, languages=("de",)
  )
  if "registered" in file:
    import seqio

    seqio.MixtureRegistry.remove("wmt_30")
    seqio.MixtureRegistry.add("wmt_30", [("wmt_de_en", 1.0)])
  flags = [f"--gin.{flag}" for flag in ("RUN_DIR=run", *_ADDED[file])]
  gin_files.load(
    ["recipes/wmt_dense_base.gin", file],
    flags,
    top_functions=commands.top_functions(),
  )
  mixture = arguments(loop.train, ["config_text"])["mixture"]
  expected = {"wmt_32": 32, "text": 1, "registered": 1}
  pairs = sources.parallel_sources(mixture)
  assert len(pairs) == expected[pathlib.Path(file).stem]


def test_a_folder_in_place_of_the_wmt_data():
  from taskmoe_jax.data.seqio import sources
  from taskmoe_jax.train import loop

  gin_files.load(
    [
      "recipes/wmt_dense_base.gin",
      "mixtures/tsv.gin",
      "mixtures/cleaning.gin",
    ],
    ["--gin.RUN_DIR=run", "--gin.TSV_FOLDER=corpus"],
    top_functions=commands.top_functions(),
  )
  mixture = arguments(loop.train, ["config_text"])["mixture"]
  pairs = sources.parallel_sources(mixture)
  assert list(pairs) == ["de-en", "en-de"]
  counts = pairs["de-en"].cleaning_counts
  assert (counts["lines"], counts["kept"]) == (1, 1)


def test_every_gin_file_belongs_to_a_recipe():
  folder = ROOT / "gin"
  pending = [f"recipes/{name}.gin" for name in NAMES]
  pending.append("mixtures/cache.gin")  # read after any of them
  used = set()
  while pending:
    used.add(name := pending.pop())
    text = (folder / name).read_text()
    pending += re.findall(r"^include '(.*)'", text, re.MULTILINE)
  assert used | _ADDED.keys() == {
    path.relative_to(folder).as_posix() for path in folder.rglob("*.*")
  }
