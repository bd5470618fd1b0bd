"""Slips in `--gin.NAME=VALUE`, on our own recipes: one clear line for each."""

import pytest

from taskmoe_jax.cli.main import main

DEMO = {
  "ENCODER=tokn": (
    "unknown granularity 'tokn': accepted are token, sentence, task, static,"
    " word, task_then_token"
    " (did you mean 'token'?). Set MoeConfig.granularity. (In"
    " encoder/MoeConfig.)"
  ),
  "TASK_BY=targt": (
    "unknown task_by 'targt': accepted are target, source, pair (did you mean"
    " 'target'?). Set TASK_BY."
  ),
  "NUM_EXPERTS=1": (
    "num_selected=2 is outside 1..1, the number of experts. Set"
    " MoeConfig.num_selected. (In encoder/MoeConfig.)"
  ),
  "TRAIN_STEP=3": (
    "bound in gin but read by nothing: TRAIN_STEP (the command line; did you"
    " mean TRAIN_STEPS?). Correct the name, or remove the binding."
  ),
  "TRAIN_STEPS=1e4": (
    "train_steps=10000.0 is of type float: accepted is int. Set TRAIN_STEPS."
  ),
  "TRAIN_STEPS=0": ("train_steps=0 is not at least 1. Set train.train_steps."),
  "SEED=-1": "seed=-1 is not at least 0. Set train.seed.",
  "SOURCE_LENGTH=2": (
    "source_length=2 is not at least 3. Set BatchShape.source_length."
  ),
  "TARGET_LENGTH=1": (
    "target_length=1 is not at least 2. Set BatchShape.target_length."
  ),
  "LABEL_SMOOTHING=1.5": (
    "label_smoothing=1.5 is outside [0, 1). Set LABEL_SMOOTHING."
  ),
  "EXPERT_MLP_DIM=0": (
    "expert_mlp_dim=0 is not at least 1. Set MoeConfig.expert_mlp_dim. (In"
    " encoder/MoeConfig.)"
  ),
  "moe.MoeConfig.z_loss_weight=-1.0": (
    "z_loss_weight=-1.0 is not at least 0. Set MoeConfig.z_loss_weight. (In"
    " encoder/MoeConfig.)"
  ),
  "config.ModelConfig.num_heads=0": (
    "num_heads=0 is not at least 1. Set ModelConfig.num_heads."
  ),
  "config.StackConfig.mlp_dims=(0,)": (
    "mlp_dims=0 is not at least 1. Set StackConfig.mlp_dims. (In"
    " encoder/StackConfig.)"
  ),
  "MIXTURE=cldr_30": (
    "mixture='cldr_30' is of type str: accepted is Mixture. Set MIXTURE."
  ),
  "SEED=x": "seed='x' is of type str: accepted is int. Set SEED.",
  "RUN_DIR=3": "run_dir=3 is of type int: accepted is str. Set RUN_DIR.",
  "MODEL=big": (
    "model='big' is of type str: accepted is ModelConfig. Set MODEL."
  ),
  "OPTIMIZER=adafactor": (
    "optimizer='adafactor' is of type str: accepted is function. Set OPTIMIZER."
  ),
  "OPTIMIZER=@optimizers.adamw": (
    "train needs a value for optimizers.adamw.b1, optimizers.adamw.b2,"
    " optimizers.adamw.eps. Bind in a gin file, or as"
    " --gin.optimizers.adamw.b1=VALUE."
  ),
  "optimizers.adafactor.learning_rate=0.001": (
    "learning_rate=0.001 is of type float: accepted is function. Set"
    " optimizers.adafactor.learning_rate."
  ),
  "optimizers.adafactor.momentum=1.5": (
    "momentum=1.5 is not between 0 and 1. Set adafactor.momentum, or leave it"
    " None for no momentum."
  ),
  "config.StackConfig.num_layers=3": (
    "num_layers=3 is not a multiple of the block's 2 layers (mlp_dims=(512,)"
    " and one MoE layer). Set StackConfig.num_layers or StackConfig.mlp_dims."
    " (In encoder/StackConfig.)"
  ),
  "BATCH_SIZE=7": (
    "a batch of 7 rows does not divide over 8 devices. Set BATCH_SIZE to a"
    " multiple of 8, or MeshShape."
  ),
  "meshes.MeshShape.data=3": (
    "a mesh of slices=1, data=3, expert=1, model=1 does not fill 8 devices: the"
    " sizes must multiply to 8, and one of them may be -1. Set"
    " MeshShape.slices, MeshShape.data, MeshShape.expert, MeshShape.model."
  ),
  "CHECKPOINT_EVERY=0": (
    "every_steps=0 is not at least 1. Set CheckpointPolicy.every_steps."
  ),
  "VOCABULARY=nowhere.model": (
    "no vocabulary at 'nowhere.model' (No such file or directory). Make one"
    " with `taskmoe vocab --gin_file=...`, or set VOCABULARY to one that"
    " exists."
  ),
  "VOCAB_SIZE=100": (
    "pieces, more than the model's vocab_size=100. Set VOCAB_SIZE."
  ),
}


def fails(capsys, argv: list[str], message: str) -> None:
  assert main(argv) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("taskmoe: error: ")
  assert line.endswith(message)


@pytest.mark.parametrize("flag", DEMO)
def test_training(capsys, tmp_path, monkeypatch, small_vocabulary, flag):
  monkeypatch.chdir(tmp_path)
  argv = [
    "train",
    "--gin_file=recipes/demo.gin",
    "--gin.RUN_DIR=run",
    f"--gin.VOCABULARY={small_vocabulary}",
    f"--gin.{flag}",
  ]
  fails(capsys, argv, DEMO[flag])
  assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["NUM_EXPERTS", "ENCODER"])
def test_experts_of_a_dense_model(capsys, name):
  argv = ["train", "--gin_file=recipes/wmt_dense_base.gin", f"--gin.{name}=4"]
  message = (
    f"bound in gin but read by nothing: {name} (the command line). Correct the"
    " name, or remove the binding."
  )
  fails(capsys, argv, message)


def test_what_a_recipe_requires(capsys):
  fails(
    capsys,
    ["train", "--gin_file=recipes/web_dense_big.gin"],
    "train needs a value for RUN_DIR, TSV_FOLDER. Bind in a gin file, or as"
    " --gin.RUN_DIR=VALUE.",
  )
