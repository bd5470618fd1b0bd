"""The model card of a Hugging Face folder."""

import json
from collections.abc import Mapping

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import target_symbol

_CARD = """\
---
language:
{languages}
library_name: transformers
pipeline_tag: translation
tags:
- taskmoe_jax
- t5
- text2text-generation
---

# {title}

Translates {directions}. A dense encoder-decoder in the shape of T5, extracted
from a Mixture of Experts that was trained for more: for this task it computes
what the whole does.

| | |
| --- | --- |
| parameters | {kept:,} of the mixture's {full:,} |
| stored here | {stored:,}, with the zeros that pad narrower layers |
| vocabulary | {pieces:,} pieces, SentencePiece |
| from | run `{run}`, step {step} |

No license is stated: add `license:` to the block above when you publish this.

## Use

Write the symbol of the target language, and one space, before each sentence:
{symbols}.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER)
batch = tokenizer(["{symbol} {example}"], return_tensors="pt", padding=True)
found = model.generate(**batch)
print(tokenizer.batch_decode(found, skip_special_tokens=True))
```

transformers 4.57 and 5; no code is fetched. For CTranslate2:

```
ct2-transformers-converter --model FOLDER --output_dir CT2 \\
  --copy_files tokenizer.json tokenizer_config.json
```

```python
import ctranslate2

ids = tokenizer.encode("{symbol} {example}")
translator = ctranslate2.Translator("CT2")
found = translator.translate_batch(
  [tokenizer.convert_ids_to_tokens(ids)], beam_size=4
)
tokens = found[0].hypotheses[0]
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens)))
```

## Scores

{scores}

## Files

| file | SHA-256 |
| --- | --- |
{files}
"""


def model_card(
  translator: Translator,
  about: About,
  stored: int,
  checksums: Mapping[str, str],
) -> str:
  """The text of `README.md`.

  Args:
    translator: What was written.
    about: Where it comes from.
    stored: How many numbers the file has, padding included.
    checksums: By file.
  """
  space = translator.task_space
  symbols = dict.fromkeys(
    target_symbol(split_pair(pair)[1]) for pair in space.pairs
  )
  full, kept = about.parameters
  return _CARD.format(
    # In quotes: YAML takes a bare `no`, Norwegian, for false.
    languages="\n".join(f"- {json.dumps(name)}" for name in space.languages),
    title=f"Translation, {about.task}",
    directions=", ".join(f"`{pair}`" for pair in space.pairs),
    full=full,
    kept=kept,
    stored=stored,
    pieces=len(translator.vocabulary),
    run=about.run,
    step=about.step,
    symbols=", ".join(f"`{symbol}`" for symbol in symbols),
    symbol=next(iter(symbols)),
    example="3 hours",
    scores=_scores(about.scores),
    files="\n".join(
      f"| {name} | `{sum_}` |" for name, sum_ in checksums.items()
    ),
  )


def _scores(scores: Mapping[str, float]) -> str:
  if not scores:
    return "Not evaluated."
  rows = [f"| {pair} | {score:.1f} |" for pair, score in scores.items()]
  return "\n".join(
    (
      "BLEU on the test part, by the run that it comes from:",
      "",
      "| pair | BLEU |",
      "| --- | --- |",
      *rows,
    )
  )
