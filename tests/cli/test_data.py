import re

import numpy as np
import pytest

from taskmoe_jax.cli.main import main


@pytest.fixture
def show(small_recipe, capsys, tmp_path, monkeypatch):
  """Runs the command and returns its lines, without the tables' frames."""
  monkeypatch.setenv("COLUMNS", "160")

  def run(*argv, status=0):
    flags = [f"--gin_file={small_recipe}", f"--gin.RUN_DIR={tmp_path}/run"]
    assert main(["data", *flags, *argv]) == status
    captured = capsys.readouterr()
    text = captured.err if status else captured.out
    text = re.sub(r"[│┃]", "|", text)
    return [" ".join(line.split()) for line in text.splitlines()]

  return run


def test_what_a_mixture_gives(show, small_vocabulary, tmp_path):
  lines = show("--samples=20", "--rows=2", f"--plot={tmp_path}/drawn")
  text = "\n".join(lines)
  assert lines[0] == "mixture 'tsv': live from seqio mixture 'tsv'"
  (row,) = [line for line in lines if line.startswith("| de-en |")]
  cells = [cell.strip() for cell in row.strip("| ").split("|")]
  assert cells[:6] == ["de-en", "en", "36", "6", "6", "25.00%"]
  assert re.fullmatch(r"\d+/\d+/\d+", cells[6])
  assert "of at most 20 examples a pair" in text
  assert re.search(r"\| fr \| 0\.00% \| \d+\.\d\d% \|", text)
  assert "wrong script" not in text
  assert re.search(r"first 4 batches: [\d.]+% filled on their fuller", text)
  shown = [line for line in lines if line.startswith("row ")]
  assert [line.split(":")[0] for line in shown] == ["row 0", "row 15"]
  pair = re.fullmatch(r"row 0: (..)-(..), task (..)", shown[0])
  assert pair[2] == pair[3]
  source = lines[lines.index(shown[0]) + 1]
  assert re.fullmatch(rf"<2{pair[2]}> \w+ \w+ \w+ (7|25)", source)
  assert lines[-1] == f"drawn: {tmp_path}/drawn/data.html"
  page = (tmp_path / "drawn" / "data.html").read_text()
  assert page.count("<svg") == 3
  # Four pairs at a quarter each.
  assert sorted(re.findall(r"<title>(..-..: 25\.00%)</title>", page)) == [
    f"{pair}: 25.00%" for pair in ("de-en", "en-de", "en-fr", "fr-en")
  ]
  for side in ("source", "target"):
    assert f">{side} tokens</text>" in page


def test_lengths_are_drawn_by_rate(tmp_path):
  from taskmoe_jax.cli.data_tables import plot
  from taskmoe_jax.data.text.statistics import PairStatistics

  def made(pair, rate, lengths):
    odd = np.zeros((2, 3), np.int64)
    return PairStatistics(pair, rate, {}, np.array(lengths), odd, None)

  # 49 bins, up to about 50 tokens: a bin is about a token wide.
  page = plot(
    [
      made("de-en", 0.75, 100 * [[3, 50]]),
      made("en-de", 0.25, 50 * [[50, 3]]),
      made("fr-en", 0.0, np.zeros((0, 2), np.int64)),
    ],
    tmp_path / "new",
  ).read_text()
  shares = re.findall(r"<title>[\d.]+ to [\d.]+: ([\d.]+%)</title>", page)
  # Sources of 3 tokens, then of 50; targets of 3, then of 50.
  assert shares == ["75.00%", "25.00%", "25.00%", "75.00%"]
  assert "de-en: 75.00%" in page
  assert "fr-en" not in page


def test_cleaning_is_counted_and_rows_may_be_unpacked(show, tmp_path):
  recipe = tmp_path / "cleaned.gin"
  recipe.write_text("include 'mixtures/cleaning.gin'\nPACK = False\n")
  lines = show(
    f"--gin_file={recipe}",
    "--gin.cleaning.Cleaning.max_characters=15",
    "--rows=1",
  )
  assert (
    "| cleaning | lines | kept | empty | too long | length ratio | copy |"
    " wrong script | duplicate |" in lines
  )
  (row,) = [line for line in lines if line.startswith("| en-de | 36 |")]
  kept, empty, too_long, *others = map(int, row.strip("| ").split("|")[2:])
  assert kept > 0
  assert too_long == 36 - kept > 0
  assert empty == sum(others) == 0


@pytest.mark.parametrize("flag", ["--samples=0", "--batches=0", "--rows=-1"])
def test_flags_that_cannot_be(show, flag):
  name = flag.split("=")[0]
  (line,) = show(flag, status=2)
  assert f"{flag} is not at least" in line
  assert line.endswith(f"Set {name}.")


def test_without_a_vocabulary(show, tmp_path):
  (line,) = show(f"--gin.VOCABULARY={tmp_path}/none", status=2)
  assert "Make one with `taskmoe vocab" in line


def test_statistics_by_hand(small_vocabulary):
  from taskmoe_jax.data.text.statistics import PairStatistics, odd_shares

  def made(pair, odd):
    lengths = np.array([[3, 9], [5, 2], [4, 2]])
    return PairStatistics(pair, 0.5, {}, lengths, np.array(odd), None)

  rows = [
    made("de-en", [[1, 2, 10], [0, 1, 4]]),
    made("en-de", [[1, 0, 4], [1, 0, 30]]),
  ]
  assert rows[0].percentiles()[0].tolist() == pytest.approx([4, 4.8, 4.98])
  assert rows[0].too_long(4, 9) == rows[0].too_long(5, 8) == 1 / 3
  assert odd_shares(rows) == {"de": (2 / 40, 2 / 40), "en": (1 / 8, 1 / 8)}
