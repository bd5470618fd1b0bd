"""Vocabularies with the pieces that some languages use, and no others.

A joint vocabulary has pieces of all languages of a mixture; a sub-network
translates few of them. Which pieces those use is counted on text. What is kept:

- every piece that tokenising the text gives, and each of its letters that is a
  piece: words that were not in the text are spelt with them;
- pad, end of sentence, unknown (ids 0, 1, 2), bytes, and the targets' `<2xx>`;
- the pieces of the lowest and the highest score, by which SentencePiece decides
  how bad an unknown letter is.

So the text is tokenised as it was: the best of all ways to cut a line is the
best of fewer, if it is among them. Rows of the vocabulary tables are sliced,
and nothing else is changed: logits of what is kept are the same, and the
probability that pieces now gone had is shared out to the others.
"""

import contextlib
import dataclasses
import gzip
import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from jaxtyping import Int
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

from taskmoe_jax.bundles.quantization import VOCABULARIES
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.verify import Samples, in_float32
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.vocabulary import Vocabulary, target_symbol

_ROWS = 16
# Of two log-probabilities of a sentence, in float32.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class TrimmingCheck:
  """How a bundle with fewer pieces compares to what it was.

  Attributes:
    sentences: How many were compared.
    nats_per_token: By how much a token of the references has become more
      likely, because pieces that are gone have no probability any more.
    identical_translations: How many greedy translations were the same; all in
      which no dropped piece stood are.
  """

  sentences: int
  nats_per_token: float
  identical_translations: int


def check_trimmed(
  whole: Translator,
  small: Translator,
  kept: Int[np.ndarray, "kept"],
  samples: Samples,
) -> TrimmingCheck:
  """Compares parameters bit for bit, and scores and translations.

  Args:
    whole: With all pieces.
    small: With those that are kept.
    kept: Their ids in the whole vocabulary.
    samples: Sentences with references; their pieces must be kept.

  Raises:
    TaskMoeError: A number is another, a reference has become less likely, or a
      translation without dropped pieces is another.
  """
  _check_rows(whole, small, kept)
  whole, small = in_float32(whole), in_float32(small)
  nats, tokens, same, sentences = 0.0, 0, 0, 0
  with jax.default_matmul_precision("highest"):
    for pair, rows in samples.items():
      sources, targets = ([row[side] for row in rows] for side in (0, 1))
      more = [
        b.total - a.total
        for a, b in zip(
          *(m.score(sources, targets, pair) for m in (whole, small)),
          strict=True,
        )
      ]
      ours, theirs = (
        model.decode(sources, pair, batch_size=_ROWS)
        for model in (whole, small)
      )
      if not min(more) >= -_ROUNDING:
        raise TaskMoeError(
          f"with fewer pieces a reference of {pair} is less likely than before,"
          f" by {-min(more):.1e}. Nothing was written. Leave out"
          " --trim_vocabulary."
        )
      for source, old, new in zip(
        sources, ours.token_ids, theirs.token_ids, strict=True
      ):
        if np.isin(old, kept).all() and old != kept[new].tolist():
          raise TaskMoeError(
            f"with fewer pieces {source!r} is translated differently, though"
            " its translation has none that were dropped. Nothing was written."
            " Leave out --trim_vocabulary."
          )
      nats += float(np.sum(more))
      tokens += sum(len(ids) + 1 for ids in whole.vocabulary.encode(targets))
      same += sum(a == b for a, b in zip(ours.texts, theirs.texts, strict=True))
      sentences += len(rows)
  return TrimmingCheck(sentences, nats / tokens, same)


def _check_rows(
  whole: Translator, small: Translator, kept: Int[np.ndarray, "kept"]
) -> None:
  """Bit for bit: the kept rows of the tables, and all else."""
  old, new = (
    traverse_util.flatten_dict(model.params, sep="/")
    for model in (whole, small)
  )
  for name, value in old.items():
    expected = np.asarray(value)
    if name in VOCABULARIES:
      expected = expected[kept]
    if not np.array_equal(expected, np.asarray(new[name])):
      raise TaskMoeError(
        f"the trimmed bundle's {name} is not that of the whole one. Nothing was"
        " written. Leave out --trim_vocabulary."
      )


_Piece = sentencepiece_model.ModelProto.SentencePiece
_Trainer = sentencepiece_model.TrainerSpec
_ENDINGS = (".tsv", ".txt", ".tsv.gz", ".txt.gz")
_LINES = 4096


def text_files(paths: str, pairs: Sequence[str]) -> list[epath.Path]:
  """The files of text to count.

  Args:
    paths: Comma-separated: files; folders of files `xx-yy.*.tsv` or
      `xx-yy.*.txt`, or the same with `.gz`, of which those of the pairs are
      taken, either way round. `xx-yy.hyp.txt`, what a model has said, is not.
    pairs: What is translated.

  Raises:
    TaskMoeError: Nothing is there.
  """
  wanted = {*pairs, *("-".join(reversed(p.split("-"))) for p in pairs)}
  found = []
  for path in map(epath.Path, paths.split(",")):
    if not path.is_dir():
      found.append(path)
      continue
    of_pairs = [
      file
      for file in sorted(path.iterdir())
      if file.name.split(".")[0] in wanted
      and file.name.endswith(_ENDINGS)
      and ".hyp." not in file.name
    ]
    if not of_pairs:
      raise TaskMoeError(
        f"the folder {str(path)!r} has no text of {', '.join(pairs)}: accepted"
        " are files xx-yy.*.tsv and xx-yy.*.txt, or with .gz. Set"
        " --trim_vocabulary."
      )
    found += of_pairs
  return found


def lines_of(files: Iterable[epath.Path]) -> Iterator[str]:
  """All lines; those of two columns are two.

  Raises:
    TaskMoeError: A file is not there, or is not text.
  """
  for path in files:
    try:
      with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        if path.name.endswith(".gz"):
          file = stack.enter_context(gzip.open(file))
        for line in file:
          yield from line.decode().rstrip("\r\n").split("\t")
    except (OSError, EOFError, UnicodeDecodeError) as error:
      reason = getattr(error, "strerror", None) or str(error)
      raise TaskMoeError(
        f"cannot count the text of {str(path)!r} ({reason}): accepted are UTF-8"
        " lines, or with .gz. Set --trim_vocabulary."
      ) from None


def refuse_trimming(model: ModelConfig, vocabulary: Vocabulary) -> None:
  """Refuses what would be another model with fewer pieces.

  Raises:
    TaskMoeError: Why it cannot be trimmed.
  """
  for name in ("encoder", "decoder"):
    moe = getattr(model, name).moe
    if moe is not None and moe.granularity.reads_token_ids:
      raise TaskMoeError(
        f"the {name} is routed by {moe.granularity}, and a piece's experts"
        " hang on its id, which would be another. Leave out --trim_vocabulary."
      )
  kind = _parsed(vocabulary).trainer_spec.model_type
  if kind not in (_Trainer.UNIGRAM, _Trainer.CHAR):
    raise TaskMoeError(
      f"the vocabulary {vocabulary.origin!r} is a SentencePiece model of type"
      f" {_Trainer.ModelType.Name(kind).lower()}, whose pieces are made of one"
      " another: accepted are unigram and char. Leave out --trim_vocabulary."
    )


def count_pieces(
  vocabulary: Vocabulary, lines: Iterable[str]
) -> Int[np.ndarray, "V"]:
  """How often each piece is used in a text."""
  counts = np.zeros(len(vocabulary), np.int64)
  for some in _batched(lines):
    ids = list(itertools.chain.from_iterable(vocabulary.encode(some)))
    counts += np.bincount(np.asarray(ids, np.int64), minlength=len(counts))
  return counts


def kept_pieces(
  vocabulary: Vocabulary,
  counts: Int[np.ndarray, "V"],
  targets: Iterable[str],
) -> Int[np.ndarray, "kept"]:
  """Ids of the pieces to keep, in order.

  Args:
    vocabulary: The full vocabulary.
    counts: See `count_pieces`.
    targets: Languages that are translated into.
  """
  pieces = _parsed(vocabulary).pieces
  symbols = set(map(target_symbol, targets))
  ids = {piece.piece: index for index, piece in enumerate(pieces)}
  kept = set(np.flatnonzero(counts).tolist())
  for index in tuple(kept):
    kept |= {ids[letter] for letter in pieces[index].piece if letter in ids}
  scores = {}
  for index, piece in enumerate(pieces):
    match piece.type:
      case _Piece.NORMAL:
        scores[index] = piece.score
      case _Piece.USER_DEFINED:
        if piece.piece in symbols or not piece.piece.startswith("<2"):
          kept.add(index)
      case _Piece.UNUSED:
        pass
      case _:
        kept.add(index)
  if scores:
    kept |= {
      min(scores, key=scores.__getitem__),
      max(scores, key=scores.__getitem__),
    }
  return np.asarray(sorted(kept), np.int64)


def trim_vocabulary(
  vocabulary: Vocabulary, kept: Int[np.ndarray, "kept"]
) -> Vocabulary:
  """The same SentencePiece model with some of its pieces."""
  model = _parsed(vocabulary)
  pieces = [model.pieces[index] for index in kept]
  del model.pieces[:]
  model.pieces.extend(pieces)
  model.trainer_spec.vocab_size = len(pieces)
  names = {piece.piece for piece in pieces}
  for listed in (
    model.trainer_spec.user_defined_symbols,
    model.trainer_spec.control_symbols,
  ):
    listed[:] = [name for name in listed if name in names]
  return Vocabulary(model.SerializeToString(), vocabulary.origin)


def trim(translator: Translator, kept: Int[np.ndarray, "kept"]) -> Translator:
  """A translator with some of the pieces, and their rows of the tables."""
  flat = traverse_util.flatten_dict(translator.params, sep="/")
  for name in VOCABULARIES:
    if name in flat:
      flat[name] = np.asarray(flat[name])[kept]
  model = translator.model.to_dict() | {"vocab_size": len(kept)}
  return Translator(
    ModelConfig.from_dict(model),
    traverse_util.unflatten_dict(flat, sep="/"),
    translator.task_space,
    trim_vocabulary(translator.vocabulary, kept),
  )


def check_tokens(
  whole: Vocabulary,
  small: Vocabulary,
  kept: Int[np.ndarray, "kept"],
  lines: Iterable[str],
) -> int:
  """Makes sure that a text is tokenised as it was; returns its lines.

  Raises:
    TaskMoeError: A line is not.
  """
  number = 0
  for some in _batched(lines):
    for line, old, new in zip(
      some, whole.encode(some), small.encode(some), strict=True
    ):
      if old != kept[new].tolist():
        raise TaskMoeError(
          f"with fewer pieces the text {line!r} is tokenised differently."
          " Nothing was written. Leave out --trim_vocabulary."
        )
    number += len(some)
  return number


def _batched(lines: Iterable[str]) -> Iterator[list[str]]:
  lines = iter(lines)
  while some := list(itertools.islice(lines, _LINES)):
    yield some


def _parsed(vocabulary: Vocabulary) -> sentencepiece_model.ModelProto:
  return sentencepiece_model.ModelProto.FromString(vocabulary.model)
