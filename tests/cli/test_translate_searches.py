"""How `taskmoe translate` is told to search, and what it prints then."""

import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main
from taskmoe_jax.decoding.search import (
  Beam,
  Lengths,
  Normalization,
  Sampling,
  Stopping,
)


@pytest.mark.parametrize(
  ("flags", "search"),
  [
    (
      ["--beam_size=3", "--n_best=2"],
      Beam(size=3, length_penalty=0.6, n_best=2),
    ),
    (
      [
        "--beam_size=2",
        "--length_penalty=1",
        "--normalization=power",
        "--stopping=full",
      ],
      Beam(
        size=2,
        length_penalty=1.0,
        normalization=Normalization.POWER,
        stopping=Stopping.FULL,
      ),
    ),
    (
      ["--temperature=0.7", "--top_k=5", "--top_p=0.9", "--seed=3"],
      Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3),
    ),
  ],
)
def test_searches(bundle_folder, stdin, tmp_path, capsys, flags, search):
  """Number, score and text; lengths and prefixes are passed on."""
  (tmp_path / "prefixes.txt").write_text("hat\n\n")
  stdin(b"the cat\nand the hat\n")
  expected = taskmoe_jax.load(bundle_folder).decode(
    ["the cat", "and the hat"],
    "en-fr",
    search=search,
    batch_size=32,
    lengths=Lengths(max_source=4, truncate=True, max_target=5),
    prefixes=["hat", ""],
  )
  command = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]
  command += ["--max_source=4", "--truncate", "--max_target=5", "--scores"]
  command.append(f"--prefixes={tmp_path}/prefixes.txt")
  assert main([*command, *flags]) == 0
  printed = capsys.readouterr().out.splitlines()
  wanted = [
    "\t".join(
      [str(number)] * (search.n_best > 1) + [f"{found.score:.6f}", found.text]
    )
    for number, hypotheses in enumerate(expected.n_best, start=1)
    for found in hypotheses
  ]
  assert printed == wanted


def test_scores_of_targets(bundle_folder, stdin, tmp_path, capsys):
  (tmp_path / "targets.txt").write_text("the hat\n\n")
  stdin(b"the cat\nand the hat\n")
  command = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]
  assert main([*command, f"--targets={tmp_path}/targets.txt"]) == 0
  expected = taskmoe_jax.load(bundle_folder).score(
    ["the cat", "and the hat"], ["the hat", ""], "en-fr"
  )
  printed = capsys.readouterr().out.splitlines()
  assert printed == [f"{score.total:.6f}" for score in expected]
