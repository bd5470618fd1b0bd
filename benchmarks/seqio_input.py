"""The same mixture as plain seqio reads it, for `input.py`."""

import argparse
import json
import pathlib
from collections.abc import Iterator

import numpy as np

LENGTHS = {"inputs": 128, "targets": 128}
_TEMPERATURE = 5.0


def mixture(args: argparse.Namespace):
  from taskmoe_jax.tasks.tsv import tsv

  return tsv(args.folder, vocabulary=args.vocabulary, temperature=_TEMPERATURE)


def seqio_rows(
  args: argparse.Namespace, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
  """Packed batches of plain seqio."""
  import seqio

  seqio_mixture = mixture(args)
  if args.way == "seqio cached":
    seqio.set_global_cache_dirs([args.seqio_cache])
    seqio_mixture = _cacheable(seqio_mixture)
  dataset = seqio.get_dataset(
    seqio_mixture.name,
    LENGTHS,
    dataset_split="train",
    shuffle=True,
    seed=0,
    use_cached=args.way == "seqio cached",
    feature_converter=seqio.EncDecFeatureConverter(
      pack=True, use_custom_packing_ops=False
    ),
  )
  yield from dataset.batch(batch_size).prefetch(2).as_numpy_iterator()


def _cacheable(mixture):
  """The same seqio tasks with a place for seqio's cache in them."""
  import seqio

  names = []
  for task in mixture.tasks:
    tokenize, prepend, append = task.preprocessors
    names.append(f"cached_{task.name}")
    seqio.TaskRegistry.add(
      names[-1],
      source=task.source,
      preprocessors=[
        tokenize,
        prepend,
        seqio.CacheDatasetPlaceholder(),
        append,
      ],
      output_features=task.output_features,
    )
  rates = [mixture.get_rate(task) for task in mixture.tasks]
  return seqio.MixtureRegistry.add(
    "cached_tsv", list(zip(names, rates, strict=True))
  )


def write_seqio_cache(args: argparse.Namespace) -> None:
  """Writes the files that seqio's cache script would.

  The script itself needs Beam, whose protobuf clashes with SentencePiece's.
  """
  import seqio
  import tensorflow as tf

  from taskmoe_jax.data.batches.packing import tokenise
  from taskmoe_jax.data.opening import open_corpus
  from taskmoe_jax.vocabulary import Vocabulary

  vocabulary = Vocabulary.load(args.vocabulary)
  seqio_mixture = mixture(args)
  corpus = open_corpus(seqio_mixture)
  for task in seqio_mixture.tasks:
    pair = task.source.pair
    folder = pathlib.Path(args.seqio_cache) / f"cached_{task.name}"
    folder.mkdir(parents=True)
    size = corpus.size(pair, "train")
    text = corpus.text(pair, "train")
    lines = [text[index] for index in range(size)]
    sides = [
      tokenise(vocabulary, list(side)) for side in zip(*lines, strict=True)
    ]
    symbol = vocabulary.target_id(task.source.target_language)
    path = str(folder / "train.tfrecord-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
      split = [np.split(ids, np.cumsum(sizes)[:-1]) for ids, sizes in sides]
      for source, target in zip(*split, strict=True):
        features = {"inputs": [symbol, *source], "targets": target}
        example = tf.train.Example(
          features=tf.train.Features(
            feature={
              name: tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
              for name, ids in features.items()
            }
          )
        )
        writer.write(example.SerializeToString())
    info = {
      "num_shards": 1,
      "features": {
        name: {"shape": [None], "dtype": "int32"} for name in LENGTHS
      },
      "seqio_version": seqio.__version__,
    }
    (folder / "info.train.json").write_text(json.dumps(info))
    (folder / "stats.train.json").write_text(json.dumps({"examples": size}))
    (folder / "COMPLETED").touch()
