"""`taskmoe translate`: translates text line by line, to standard output.

The search is greedy unless --beam_size or --temperature says otherwise. There
is one line for each line; --scores puts a score before it, and with --n_best
there are several, each after the number of its line, with tabs between. With
--targets nothing is translated: the log-probabilities of the lines of that file
are printed, as translations of the input.
"""

import argparse
import sys

from taskmoe_jax.decoding.search import GREEDY, Beam, Lengths, Sampling, Search
from taskmoe_jax.errors import TaskMoeError

_OF_BEAMS = ("length_penalty", "stopping", "normalization")
_OF_SAMPLING = ("top_k", "top_p", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--bundle", help="a folder that `taskmoe export` wrote")
  model.add_argument("--run_dir", help="a run directory: the whole mixture")
  parser.add_argument(
    "--pair", help="such as de-en; not needed where there is only one"
  )
  parser.add_argument(
    "--input", help="a UTF-8 file; standard input unless given"
  )
  parser.add_argument(
    "--batch_size", type=int, default=32, help="lines translated together"
  )
  parser.add_argument(
    "--prefixes",
    metavar="FILE",
    help="what each line's translation must begin with; lines may be empty",
  )
  parser.add_argument(
    "--targets",
    metavar="FILE",
    help="translations of the input, whose log-probabilities to print",
  )
  parser.add_argument(
    "--scores", action="store_true", help="print the score of each translation"
  )
  _add_search(parser)
  lengths = parser.add_argument_group("lengths, in tokens")
  lengths.add_argument(
    "--max_source",
    type=int,
    default=Lengths.max_source,
    help="longer lines are an error",
  )
  lengths.add_argument(
    "--truncate", action="store_true", help="or are cut, with this"
  )
  lengths.add_argument(
    "--max_target",
    type=int,
    help="longest translation; twice the source and 32 more unless given",
  )


def _add_search(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--n_best", type=int, default=1, help="translations of each line"
  )
  beams = parser.add_argument_group("beam search")
  beams.add_argument("--beam_size", type=int, help="hypotheses side by side")
  beams.add_argument(
    "--length_penalty",
    type=float,
    help="alpha, by which long translations gain; 0.6 unless given",
  )
  beams.add_argument(
    "--normalization",
    help="gnmt: ((5 + length) / 6)^alpha; power: length^alpha",
  )
  beams.add_argument(
    "--stopping", help="full, likely or sure: see docs/decoding.md"
  )
  sampling = parser.add_argument_group("sampling")
  sampling.add_argument(
    "--temperature", type=float, help="draw tokens; below 1 likelier ones"
  )
  sampling.add_argument("--top_k", type=int, help="of the likeliest so many")
  sampling.add_argument(
    "--top_p", type=float, help="of the likeliest with this probability"
  )
  sampling.add_argument("--seed", type=int, help="0 unless given")


def run(args: argparse.Namespace) -> None:
  search = _search(args)
  lengths = Lengths(
    max_source=args.max_source,
    truncate=args.truncate,
    max_target=args.max_target,
  )
  if args.bundle is not None:
    from taskmoe_jax.bundles.bundle import load_bundle

    translator = load_bundle(args.bundle)
  else:
    from taskmoe_jax.runs.restoring import load_translator

    translator, _ = load_translator(args.run_dir)
  lines = _read_lines(args.input, "--input")
  if args.targets is not None:
    targets = _read_lines(args.targets, "--targets")
    for score in translator.score(
      lines, targets, args.pair, batch_size=args.batch_size, lengths=lengths
    ):
      print(f"{score.total:.6f}")
    return
  prefixes = None
  if args.prefixes is not None:
    prefixes = _read_lines(args.prefixes, "--prefixes")
  found = translator.decode(
    lines,
    args.pair,
    search=search,
    batch_size=args.batch_size,
    lengths=lengths,
    prefixes=prefixes,
  )
  for number, hypotheses in enumerate(found.n_best, start=1):
    for hypothesis in hypotheses:
      columns = [str(number)] if search.n_best > 1 else []
      if args.scores:
        columns.append(f"{hypothesis.score:.6f}")
      # One line for each line, also if the model writes a line break.
      print(*columns, " ".join(hypothesis.text.splitlines()), sep="\t")


def _search(args: argparse.Namespace) -> Search:
  """What the flags ask for; a flag of another search is a mistake."""

  def given(names):
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}

  beam, sampling = given(_OF_BEAMS), given(_OF_SAMPLING)
  if beam and args.beam_size is None:
    raise TaskMoeError(
      f"--{next(iter(beam))} is of beam search. Set --beam_size."
    )
  if sampling and args.temperature is None:
    raise TaskMoeError(
      f"--{next(iter(sampling))} is of sampling. Set --temperature."
    )
  if args.beam_size is not None and args.temperature is not None:
    raise TaskMoeError(
      "--beam_size and --temperature are different searches. Set one of them."
    )
  if args.beam_size is not None:
    sizes = {"size": args.beam_size, "n_best": args.n_best}
    return Beam.from_dict({"length_penalty": 0.6, **sizes, **beam})
  if args.temperature is not None:
    return Sampling(
      temperature=args.temperature, n_best=args.n_best, **sampling
    )
  if args.n_best != 1:
    raise TaskMoeError(
      f"n_best={args.n_best}: greedy search has one translation of a line. Set"
      " --beam_size or --temperature."
    )
  return GREEDY


def _read_lines(path: str | None, flag: str) -> list[str]:
  name = path or "standard input"
  try:
    if path is None:
      data = sys.stdin.buffer.read()
    else:
      with open(path, "rb") as file:
        data = file.read()
  except OSError as error:
    raise TaskMoeError(
      f"cannot read {path!r} ({error.strerror}). Set {flag}."
    ) from None
  lines = []
  for number, line in enumerate(data.splitlines(), start=1):
    try:
      lines.append(line.decode("utf-8"))
    except UnicodeDecodeError as error:
      raise TaskMoeError(
        f"{name} line {number} is not UTF-8: {error}."
      ) from None
  return lines
