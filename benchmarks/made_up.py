"""What programs of random weights have in the place of text."""

from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary


def made_up_vocabulary(size: int) -> Vocabulary:
  """So many pieces that no text needs."""
  piece = sentencepiece_model.ModelProto.SentencePiece
  kinds = {PAD_ID: piece.CONTROL, EOS_ID: piece.CONTROL, UNK_ID: piece.UNKNOWN}
  names = {PAD_ID: "<pad>", EOS_ID: "</s>", UNK_ID: "<unk>", 3: "<2de>"}
  kinds[3] = piece.USER_DEFINED
  model = sentencepiece_model.ModelProto(
    pieces=[
      piece(
        piece=names.get(index, f"piece{index}"),
        score=-float(index > UNK_ID + 1),
        type=kinds.get(index, piece.NORMAL),
      )
      for index in range(size)
    ]
  )
  model.trainer_spec.pad_id = PAD_ID
  model.trainer_spec.eos_id = EOS_ID
  model.trainer_spec.unk_id = UNK_ID
  model.trainer_spec.bos_id = -1
  model.normalizer_spec.name = "identity"
  return Vocabulary(model.SerializeToString(), "made up")
