"""`evaluate`: what `taskmoe evaluate` calls with what gin binds."""

import functools
from collections.abc import Callable, Sequence

import rich.console
from etils import epath

from taskmoe_jax.data.corpus import Corpus, Mixture
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.decoding.search import (
  USUAL_LENGTHS,
  Beam,
  Greedy,
  Lengths,
  Search,
)
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import groups as pair_groups
from taskmoe_jax.evaluate import metrics, page, results, tables, texts
from taskmoe_jax.evaluate.scores import Scoring
from taskmoe_jax.evaluate.translating import (
  Decoding,
  Evaluated,
  load_evaluated,
  translate,
)
from taskmoe_jax.hosts import processes
from taskmoe_jax.partitioning.meshes import MeshShape
from taskmoe_jax.task_space import split_pair


def evaluate(
  *,
  mixture: Mixture | None,
  run_dir: epath.PathLike | None,
  part: str,
  examples: int | None,
  batch_size: int,
  mesh: MeshShape | None,
  search: Search,
  scoring: Scoring,
  high_resource: int | Sequence[str] | None,
  named_high_resource: Sequence[str] | None = None,
  lengths: Lengths = USUAL_LENGTHS,
  pairs: Sequence[str] | None = None,
  step: int | None = None,
  bundle: epath.PathLike | None = None,
  tsv: str | None = None,
  test_set: str | None = None,
  out: epath.PathLike | None = None,
  console: rich.console.Console | None = None,
) -> results.Results:
  """Translates a text, scores every pair, and writes the results.

  Sentences are translated as they are in the corpus: nothing is normalised.

  Args:
    mixture: The mixture whose part is translated, unless `tsv` or `test_set`
      is given, and whose training text is counted; None for neither.
    part: `validation` or `test`.
    examples: How many sentences of each pair, from the first; None for all.
    high_resource: Which languages count as high-resource, or the number of
      pairs of training text above which one does; None for no such averages.
    named_high_resource: Languages to take instead; each must be in some pair.
    lengths: How long sources and translations may be.
    step: Which checkpoint; the newest unless given.
    bundle: A bundle to evaluate instead of the run.
    tsv: Text to translate: see `texts.of_tsv`.
    test_set: Text to translate: see `texts.of_sacrebleu`.
    out: The folder of the results; `evaluation/...` in the model's folder
      unless given.
  """
  texts.check_part(part)
  evaluated = load_evaluated(
    run_dir=run_dir, bundle=bundle, step=step, mesh=mesh
  )
  corpus = None if mixture is None else open_corpus(mixture)
  text = _text(evaluated, corpus, part, pairs, examples, tsv, test_set)
  _check_named(named_high_resource, evaluated, text)
  name = _folder_name(text, examples, evaluated.step, search)
  return evaluate_text(
    evaluated,
    text,
    Decoding(search=search, lengths=lengths, batch_size=batch_size),
    scoring,
    groups=functools.partial(
      _groups, corpus, named_high_resource or high_resource
    ),
    folder=epath.Path(out or evaluated.folder / "evaluation" / name),
    console=console,
  )


def evaluate_text(
  evaluated: Evaluated,
  text: texts.Text,
  decoding: Decoding,
  scoring: Scoring,
  *,
  groups: Callable[[Evaluated, texts.Text, list[str]], dict[str, list[str]]],
  folder: epath.Path,
  console: rich.console.Console | None,
) -> results.Results:
  """Translates, scores and writes, given a loaded model and text.

  Returns:
    What `results.json` holds, and the folder; empty on all processes but the
    first.
  """
  console = processes.console(console)
  scoring, notes = scoring.available()
  records = translate(
    evaluated, text, decoding, scoring, folder=folder, console=console
  )
  if not processes.is_first():
    return {}
  notes += [
    note
    for language in sorted({split_pair(pair)[1] for pair in text.pairs})
    for note in metrics.tokenizer_notes(language)
  ]
  found = results.gather(
    records,
    groups(evaluated, text, notes),
    model=(str(evaluated.folder), evaluated.step),
    text=text,
    search=decoding.description(),
    scoring=scoring,
    notes=notes,
  )
  _report(found, folder, console)
  return {**found, "folder": str(folder)}


def _report(
  found: results.Results, folder: epath.Path, console: rich.console.Console
) -> None:
  """Writes the files that cover all pairs, and prints the table."""
  pages = {
    "results.md": tables.markdown(found),
    "index.html": page.results_page(found, folder),
  }
  results.write_results(folder, found, pages)
  tables.print_results(console, found)
  console.print(f"results in {folder}", highlight=False, soft_wrap=True)


def _text(
  evaluated: Evaluated,
  corpus: Corpus | None,
  part: str,
  pairs: Sequence[str] | None,
  limit: int | None,
  tsv: str | None,
  test_set: str | None,
) -> texts.Text:
  space = evaluated.translator.task_space
  if tsv and test_set:
    raise TaskMoeError(
      f"two texts to evaluate on: --tsv={tsv} and --test_set={test_set}. Set"
      " one of them."
    )
  if tsv:
    return texts.of_tsv(tsv, part=part, pairs=pairs, space=space, limit=limit)
  if test_set:
    return texts.of_sacrebleu(test_set, pairs=pairs, space=space, limit=limit)
  if corpus is None:
    raise TaskMoeError(
      "nothing to evaluate on. Set --tsv, --test_set, or --gin_file to a"
      " recipe with a mixture."
    )
  return texts.of_corpus(
    corpus, part=part, pairs=pairs, space=space, limit=limit
  )


def _folder_name(
  text: texts.Text, examples: int | None, step: int, search: Search
) -> str:
  """Names what tells one evaluation of a model from another."""
  first = f"-first{examples}" if examples else ""
  match search:
    case Greedy():
      how = "greedy"
    case Beam():
      how = f"beam{search.size}-lp{search.length_penalty:g}"
    case _:
      how = f"sampling{search.temperature:g}-seed{search.seed}"
  return f"{text.name}{first}-{step}-{how}"


def _check_named(
  languages: Sequence[str] | None, evaluated: Evaluated, text: texts.Text
) -> None:
  if not languages:
    return
  trained = evaluated.translator.task_space.pairs
  pair_groups.check_languages(languages, [*trained, *text.pairs])


def _groups(
  corpus: Corpus | None,
  high_resource: int | Sequence[str] | None,
  evaluated: Evaluated,
  text: texts.Text,
  notes: list[str],
) -> dict[str, list[str]]:
  """The groups of pairs; adds to the notes what could not be determined."""
  trained: Sequence[str] = evaluated.translator.task_space.pairs
  if corpus is not None:
    trained = pair_groups.trained_pairs(corpus)
  if isinstance(high_resource, int):
    more_than, high_resource = high_resource, None
    if corpus is not None:
      high_resource, said = pair_groups.high_resource_languages(
        corpus, more_than
      )
      notes += said
  return pair_groups.groups_of(
    list(text.pairs), trained=trained, high_resource=high_resource
  )
