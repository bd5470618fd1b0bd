"""Hugging Face's tokenizers give the ids that SentencePiece gives."""

import json
import random
import re

import pytest
import transformers

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.huggingface.tokenizer import (
  tokenizer_config,
  tokenizer_json,
)
from taskmoe_jax.vocabulary import EOS_ID, UNK_ID, Vocabulary
from tests.trained_pieces import trained_pieces

TEXT = [
  "The red house, 3 hours and 25 minutes (2006).",
  "Das rote Haus: drei Stunden – 25 Minuten; schön größer.",
  "La maison rouge, l’été à Noël, cœur.",
  "Красный дом, три часа и 25 минут.",
  "红色的房子，三小时二十五分钟。",
  "લાલ ઘર, ત્રણ કલાક અને ૨૫ મિનિટ.",
  "लाल घर, तीन घंटे और २५ मिनट।",
  "Қызыл үй, үш сағат 25 минут.",
]
ODD = [
  " two  spaces ",
  "a▁b",
  "▁x",
  "a <2de> b",
  "x</s>y <pad> <unk>",
  "<0x41> <0x4G> a<0xFF>",
  "日本語テキスト",
  "\ttab\nline",
  "😀😀 x",
  "ａｂｃ ﬁ é é",
  "<2d",
  "\u00a0fixed",
  "<<0x41>",
]
PARTS = [*"ab <>/s2de0x4▁ \n\tжя字红ઘक😀é", "<2de>", "<2fr>", "</s>", "<0x41>"]
LIKE_OURS = {
  "model_type": "unigram",
  "vocab_size": 400,
  "byte_fallback": True,
  "split_digits": True,
  "normalization_rule_name": "identity",
  "remove_extra_whitespaces": False,
}


def trained(**settings):
  model = trained_pieces(
    TEXT * 3,
    symbols=["<2de>", "<2fr>", "<2zh>"],
    hard_vocab_limit=False,
    **settings,
  )
  return Vocabulary(model, "mine.model")


def opened(vocabulary, folder):
  (folder / "tokenizer.json").write_text(tokenizer_json(vocabulary))
  (folder / "tokenizer_config.json").write_text(
    json.dumps(tokenizer_config(vocabulary))
  )
  (folder / "config.json").write_text('{"model_type": "t5"}')
  return transformers.AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    pytest.param(LIKE_OURS, id="like_ours"),
    pytest.param({"model_type": "unigram", "vocab_size": 300}, id="usual"),
    pytest.param({"model_type": "char", "vocab_size": 90}, id="char"),
  ],
)
def test_ids_and_texts_are_the_same(settings, tmp_path):
  vocabulary = trained(**settings)
  theirs = opened(vocabulary, tmp_path)
  draw = random.Random(3)
  drawn = [
    "".join(draw.choices(PARTS, k=draw.randint(1, 12))) for _ in range(1000)
  ]
  texts = [*TEXT, *ODD, *drawn]
  if not settings.get("byte_fallback"):
    # Two unknown letters at a split count as two, to SentencePiece as one.
    texts = [text for text in texts if not re.search("</s>|<pad>|<unk>", text)]
  assert len(texts) > 800
  ours = [[*ids, EOS_ID] for ids in vocabulary.encode(texts)]
  symbol = vocabulary.target_id("fr")
  tagged = theirs([f"<2fr> {text}" for text in texts]).input_ids
  for text, our, their in zip(texts, ours, tagged, strict=True):
    assert their == [symbol, *our], text
  # A text that is nothing but a symbol means the symbol.
  plain = [text for text in texts if not re.match(r"[\s▁]*<2", text)]
  for text, their in zip(plain, theirs(plain).input_ids, strict=True):
    assert their == [*vocabulary.encode([text])[0], EOS_ID], text
  known = [ids for ids in ours if UNK_ID not in ids]
  assert len(known) > 50
  assert vocabulary.decode(known) == theirs.batch_decode(
    known, skip_special_tokens=True
  )


def test_a_batch_has_what_t5_takes(tmp_path):
  theirs = opened(trained(**LIKE_OURS), tmp_path)
  assert set(theirs(["a", "b c"])) == {"input_ids", "attention_mask"}


def test_saved_again_it_is_the_same(tmp_path):
  theirs = opened(trained(**LIKE_OURS), tmp_path)
  theirs.save_pretrained(tmp_path / "again")
  again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "again"))
  assert again("<2de> </s> 3").input_ids == theirs("<2de> </s> 3").input_ids


def test_merges_are_refused():
  vocabulary = trained(model_type="bpe", vocab_size=200)
  with pytest.raises(
    TaskMoeError, match=r"'mine.model' is a .* of type bpe.*unigram and char"
  ):
    tokenizer_json(vocabulary)


def test_a_vocabulary_without_a_first_space_is_refused():
  vocabulary = trained(**LIKE_OURS, add_dummy_prefix=False)
  with pytest.raises(TaskMoeError, match=r"no space.*add_dummy_prefix"):
    tokenizer_json(vocabulary)
