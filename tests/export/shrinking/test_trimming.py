import gzip

import jax
import numpy as np
import pytest
from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.quantization import Quantization
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export import verify
from taskmoe_jax.export.shrinking.shrink import Shrinking, shrink
from taskmoe_jax.export.shrinking.trimming import (
  check_tokens,
  check_trimmed,
  count_pieces,
  kept_pieces,
  lines_of,
  refuse_trimming,
  text_files,
  trim,
  trim_vocabulary,
)
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary
from tests.trained_pieces import trained_pieces

ENGLISH = [f"the {a} house of the {b}" for a in "abcde" for b in "fgh"]
GERMAN = [f"das {a} Haus vom {b} über" for a in "abcde" for b in "fgh"]


def trained(kind, size):
  return Vocabulary(
    trained_pieces(
      ENGLISH + GERMAN,
      vocab_size=size,
      symbols=["<2de>", "<2en>", "<b>"],
      model_type=kind,
      hard_vocab_limit=False,
      byte_fallback=kind == "unigram",
    )
  )


@pytest.fixture(scope="module")
def unigram():
  return trained("unigram", 320)


def kept_names(vocabulary, lines, *targets):
  kept = kept_pieces(vocabulary, count_pieces(vocabulary, lines), targets)
  return kept, [vocabulary.pieces[index] for index in kept]


def test_pieces_by_hand(vocabulary):
  """Of the letters a to h, and three symbols."""
  scores = dict(
    zip(
      vocabulary.pieces,
      map(vocabulary._processor.get_score, range(15)),
      strict=True,
    )
  )
  letters = {
    name: score for name, score in scores.items() if name in "▁abcdefgh"
  }
  extreme = {min(letters, key=letters.get), max(letters, key=letters.get)}
  kept, names = kept_names(vocabulary, ["abc", "ab"], "de")
  assert kept.tolist()[:3] == [PAD_ID, EOS_ID, UNK_ID]
  assert set(names[3:]) == {"<2de>", "▁", "a", "b", "c"} | extreme
  assert kept.tolist() == sorted(kept)


def test_counted_text_is_tokenised_as_it_was(unigram):
  kept, names = kept_names(unigram, ENGLISH, "en")
  small = trim_vocabulary(unigram, kept)
  assert list(small.pieces) == names
  assert len(small) < len(unigram)
  assert check_tokens(unigram, small, kept, ENGLISH) == 15
  assert small.target_id("en") == names.index("<2en>")
  # Symbols that are no target's, and bytes, stay.
  assert {"<b>", "<0x41>", "<0xFF>"} < set(names)
  with pytest.raises(TaskMoeError, match="has no symbol <2de>"):
    small.target_id("de")
  # Words that are not in the text are spelt, and strange letters are bytes.
  strange = ["hat the foe", "über Haus 日本"]
  for line, ids in zip(strange, small.encode(strange), strict=True):
    assert UNK_ID not in ids
    assert small.decode([ids]) == [line]
  with pytest.raises(
    TaskMoeError,
    match=r"the text 'das a Haus .*' is tokenised differently\. Nothing was",
  ):
    check_tokens(unigram, small, kept, ENGLISH + GERMAN)


def test_unknown_letters_are_as_bad_as_they_were():
  """The piece of the lowest score is kept, though no text has it."""
  vocabulary = trained("char", 40)
  text = ["the house 日本 of ü", "日 a"]
  kept, _ = kept_names(vocabulary, text, "de")
  small = trim_vocabulary(vocabulary, kept)
  assert check_tokens(vocabulary, small, kept, text) == 2
  low = min(
    small._processor.get_score(index)
    for index, name in enumerate(small.pieces)
    if not name.startswith("<")
  )
  assert low == min(
    vocabulary._processor.get_score(index)
    for index, name in enumerate(vocabulary.pieces)
    if not name.startswith("<")
  )


@pytest.fixture(scope="module")
def trimmed_of(sub_network):
  """Makes a translator, and one that has the pieces of four letters."""

  def make(embeddings="one"):
    whole = sub_network(embeddings=embeddings)
    text = ["abcd", "dad", "add", "bad", "cab"]
    counts = count_pieces(whole.vocabulary, text)
    kept = kept_pieces(whole.vocabulary, counts, ["de"])
    return whole, trim(whole, kept), kept

  return make


SAMPLES = {
  "en-de": [("abc", "cab"), ("dad", "bad"), ("ca", "d")],
  "fr-de": [("a", "add"), ("bad", "cab"), ("d", "ab"), ("da", "ca")],
}


@pytest.mark.slow
@pytest.mark.parametrize("embeddings", ["one", "three"])
def test_logits_of_kept_pieces_are_the_same(trimmed_of, embeddings):
  whole, small, kept = trimmed_of(embeddings)
  assert small.model.vocab_size == len(small.vocabulary) == len(kept) < 15
  for pair, rows in SAMPLES.items():
    ours, theirs = (
      verify._logits_of(
        m, pair, verify.reference_batch(rows, pair, m.vocabulary)
      )
      for m in (whole, small)
    )
    assert theirs.shape[-1] == len(kept)
    np.testing.assert_allclose(theirs, ours[..., kept], atol=2e-5)


@pytest.mark.expensive("it compiles models")
def test_translations_are_the_same(trimmed_of):
  whole, small, kept = trimmed_of()
  check = check_trimmed(whole, small, kept, SAMPLES)
  assert check.sentences == 7
  assert check.nats_per_token > 0
  # By hand: what dropped pieces have no more.
  (old,), (new,) = (m.score(["abc"], ["cab"], "en-de") for m in (whole, small))
  assert old.token_ids == kept[new.token_ids].tolist()
  assert new.total > old.total


def test_other_numbers_are_noticed(trimmed_of):
  whole, small, kept = trimmed_of()
  params = jax.tree.map(np.array, small.params)
  params["embedding"]["table"][4, 2] += 1e-6
  other = Translator(small.model, params, small.task_space, small.vocabulary)
  with pytest.raises(
    TaskMoeError, match=r"trimmed bundle's embedding/table is not that of the"
  ):
    check_trimmed(whole, other, kept, SAMPLES)


@pytest.mark.slow
def test_both_at_once(sub_network, tmp_path):
  whole = sub_network()
  (tmp_path / "text.txt").write_text("abc\tdad\nbad\n")
  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    bundle.write_model(folder, whole)
    shrinking = Shrinking(str(tmp_path / "text.txt"), Quantization.INT8)
    said = shrink(folder, shrinking, SAMPLES, {})
    loaded = bundle.read_model(folder)
  trimming = said["trimming"]
  assert trimming["lines"] == 3 + 14
  assert trimming["text"] == [str(tmp_path / "text.txt")]
  size = len(loaded.vocabulary)
  assert trimming["pieces"] == {"before": 15, "after": size}
  # The table had two rows without a piece.
  sizes = said["cost"]["parameters"]
  assert sizes["before"] - sizes["after"] == (17 - size) * 8
  assert said["quantization"]["sentences"] == 7
  assert len(loaded.translate(["hag"])) == 1


def test_text_by_pair(tmp_path):
  names = ("en-de.train.tsv", "en-de.hyp.txt", "de-fr.dev.tsv", "fr-en.txt")
  for name in (*names, "en-de.src.json"):
    (tmp_path / name).write_text("a\tb\n")
  with gzip.open(tmp_path / "de-en.test.tsv.gz", "wt") as file:
    file.write("c\td\r\ne\n")
  found = text_files(str(tmp_path), ["en-de"])
  assert [p.name for p in found] == ["de-en.test.tsv.gz", "en-de.train.tsv"]
  assert list(lines_of(found)) == ["c", "d", "e", "a", "b"]
  file = tmp_path / "fr-en.txt"
  assert text_files(f"{file},{file}", ["en-de"]) == [epath.Path(file)] * 2
  with pytest.raises(
    TaskMoeError, match=r"has no text of ro-en: accepted are files xx-yy\..*"
  ):
    text_files(str(tmp_path), ["ro-en"])
  (tmp_path / "bad.gz").write_bytes(b"no gzip")
  (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
  for name in ("bad.gz", "bad.txt", "none.txt"):
    with pytest.raises(
      TaskMoeError, match=rf"cannot count the text of '.*{name}' \(.*Set --trim"
    ):
      list(lines_of([epath.Path(tmp_path / name)]))


@pytest.mark.slow
def test_what_cannot_be_trimmed(mixture_of, sub_network):
  words = mixture_of("task", "word")
  with pytest.raises(TaskMoeError, match=r"the decoder is routed by word, and"):
    refuse_trimming(words.model, words.vocabulary)
  with pytest.raises(
    TaskMoeError,
    match=r"model of type bpe, whose .*: accepted are unigram and char\. Leave",
  ):
    refuse_trimming(sub_network().model, trained("bpe", 60))
