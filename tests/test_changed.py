"""Which tests `make changed` runs, in a repository of a few files."""

import subprocess

import pytest

from tests.changed import changed_files, mirrored_tests

FILES = {
  "README.md": "",
  "gin/models/dense.gin": "",
  "setup.py": "",
  "pyproject.toml": "",
  "tasks/tsv.py": "from taskmoe_jax.data import corpus\n",
  "taskmoe_jax/__init__.py": "",
  "taskmoe_jax/errors.py": "",
  "taskmoe_jax/data/corpus.py": "from taskmoe_jax.errors import OneError\n",
  "taskmoe_jax/moe/layer.py": "import taskmoe_jax.moe.gates\n",
  "taskmoe_jax/moe/gates.py": "",
  "taskmoe_jax/train/loop.py": (
    "def train():\n  from taskmoe_jax.moe import layer\n"
  ),
  "taskmoe_jax/train/hooks/stall.py": "",
  "tests/conftest.py": "",
  "tests/letters.py": "",
  "tests/test_docs.py": "",
  "tests/test_errors.py": "from taskmoe_jax import errors\n",
  "tests/test_floors.py": "",
  "tests/test_house.py": "",
  "tests/test_whole_way.py": "",
  "tests/config/test_recipes.py": "",
  "tests/data/conftest.py": "",
  "tests/data/test_corpus.py": "from tests import letters\n",
  "tests/moe/test_gates.py": "",
  "tests/tasks/test_tsv.py": "from taskmoe_jax.tasks import tsv\n",
  "tests/train/test_loop.py": "",
  "tests/train/hooks/test_stall.py": "",
}
HOUSE = ["tests/test_floors.py", "tests/test_house.py"]


@pytest.fixture
def root(tmp_path):
  for name, text in FILES.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  return tmp_path


@pytest.mark.parametrize(
  ("changed", "expected"),
  [
    ("taskmoe_jax/moe/gates.py", ["tests/moe/test_gates.py"]),
    # Its own room, and that of who imports it, but no room below that one.
    (
      "taskmoe_jax/moe/layer.py",
      ["tests/moe/test_gates.py", "tests/train/test_loop.py"],
    ),
    # By itself it is not all of tests/; rooms outside of the package, too.
    (
      "taskmoe_jax/errors.py",
      ["tests/data/test_corpus.py", "tests/test_errors.py"],
    ),
    (
      "taskmoe_jax/data/corpus.py",
      ["tests/data/test_corpus.py", "tests/tasks/test_tsv.py"],
    ),
    ("tasks/tsv.py", ["tests/tasks/test_tsv.py"]),
    ("taskmoe_jax/train/hooks/stall.py", ["tests/train/hooks/test_stall.py"]),
    # A module that is gone.
    ("taskmoe_jax/moe/gone.py", ["tests/moe/test_gates.py"]),
    ("tests/moe/test_gates.py", ["tests/moe/test_gates.py"]),
    ("tests/letters.py", ["tests/data/test_corpus.py"]),
  ],
)
def test_python(root, changed, expected):
  assert mirrored_tests([changed], root) == sorted(expected + HOUSE)


def test_conftests_are_for_their_folders(root):
  assert mirrored_tests(["tests/data/conftest.py"], root) == [
    "tests/data",
    *HOUSE,
  ]
  changed = ["tests/conftest.py", "taskmoe_jax/moe/gates.py"]
  assert mirrored_tests(changed, root) == ["tests"]


@pytest.mark.parametrize(
  ("changed", "expected"),
  [
    ("README.md", ["tests/test_docs.py"]),
    ("docs/training.md", ["tests/test_docs.py"]),
    ("gin/models/dense.gin", ["tests/config"]),
    ("pyproject.toml", ["tests"]),
    ("LICENSE", []),
  ],
)
def test_what_is_not_python(root, changed, expected):
  assert mirrored_tests([changed], root) == expected


def test_what_git_says(root):
  def git(*arguments):
    subprocess.run(
      ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
      cwd=root,
      check=True,
      capture_output=True,
    )

  git("init", "--initial-branch=trunk")
  git("add", "--all")
  git("commit", "--message=first")
  (root / "README.md").write_text("new")
  (root / "tests" / "new.py").write_text("")
  # Without a main, against what is committed.
  assert changed_files(root) == ["README.md", "tests/new.py"]
  git("branch", "main")
  git("checkout", "-b", "work")
  git("commit", "--all", "--message=second")
  git("mv", "setup.py", "moved.py")
  assert changed_files(root) == [
    *("README.md", "moved.py", "setup.py", "tests/new.py")
  ]
