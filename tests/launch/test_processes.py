"""Launchers that run something: a stand-in for the trainer, or for `gcloud`."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import LAUNCH, ROOT

# Writes what it got; waits for SIGTERM, saves and ends if told to wait.
TRAINER = """\
#!/usr/bin/env bash
echo "$@"
id=${@: -1}; id=${id#--process_id=}
case $1 in
  wait)
    trap 'echo saved > saved-$id; exit 0' TERM
    touch started-$id
    while :; do sleep 0.05; done ;;
  fail)
    if [ "$id" = 1 ]; then
      until [ -e started-0 ]; do sleep 0.05; done
      exit 7
    fi
    exec "$0" wait "--process_id=$id" ;;
esac
"""


@pytest.fixture
def trainer(tmp_path, program):
  path = program("trainer", TRAINER)

  def start(*arguments):
    return subprocess.Popen(
      ["bash", LAUNCH / "laptop.sh", "--processes=2", "--", *arguments],
      cwd=tmp_path,
      env={"PATH": "/usr/bin:/bin", "TASKMOE": str(path)},
      stdout=subprocess.PIPE,
      text=True,
    )

  return start


def wait_for(*paths):
  end = time.monotonic() + 20
  while not all(path.exists() for path in paths):
    assert time.monotonic() < end, paths
    time.sleep(0.02)


def test_each_process_has_its_number(trainer):
  out, _ = trainer("train", "--gin_file=a").communicate(timeout=20)
  lines = [line for line in out.splitlines() if not line.startswith("+")]
  assert sorted(lines) == [
    f"{i}: train --gin_file=a --coordinator=localhost:12355 --num_processes=2"
    f" --process_id={i}"
    for i in (0, 1)
  ]


def test_sigterm_reaches_every_process(trainer, tmp_path):
  process = trainer("wait")
  wait_for(tmp_path / "started-0", tmp_path / "started-1")
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 0
  wait_for(tmp_path / "saved-0", tmp_path / "saved-1")


def test_when_one_fails_the_others_are_stopped(trainer, tmp_path):
  process = trainer("fail")
  process.communicate(timeout=20)
  assert process.returncode == 7
  wait_for(tmp_path / "saved-0")


GCLOUD = """\
#!/usr/bin/env bash
echo "$@" >> calls
case "$*" in
  *"queued-resources describe"*)
    # Waiting, there, taken back; then waiting and there again.
    n=$(cat states 2>/dev/null || echo 0)
    echo $((n + 1)) > states
    states=(PROVISIONING ACTIVE SUSPENDED SUSPENDED PROVISIONING ACTIVE ACTIVE)
    echo "${states[$n]}" ;;
  *"systemctl show"*) echo exited ;;
esac
"""


def test_preempted_machines_are_made_again(tmp_path, program):
  program("gcloud", GCLOUD)
  done = subprocess.run(
    [
      *("bash", LAUNCH / "tpu_vm.sh", "up", "--name=mt", "--zone=z"),
      *("--type=v5p-8", "--poll=0", "--source=https://example.org/t.whl.zip"),
      *("--", "train"),
    ],
    cwd=tmp_path,
    env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)},
    stdout=subprocess.PIPE,
    text=True,
    timeout=30,
  )
  assert done.returncode == 0
  assert "the machines are gone (SUSPENDED); once more" in done.stdout
  assert "the training has ended" in done.stdout
  calls = (tmp_path / "calls").read_text().splitlines()
  verbs = [
    word
    for call in calls
    for word in ("create", "delete", "systemd-run")
    if f"queued-resources {word}" in call or word == "systemd-run" in call
  ]
  assert verbs.count("create") == 2
  assert verbs.count("delete") == 1
  assert sum("systemd-run" in call for call in calls) == 2


def test_a_job_of_slurm_saves_and_goes_back_into_the_queue(tmp_path, program):
  """The job itself, with stand-ins: SIGTERM to its shell, as Slurm sends it."""
  program("srun", '#!/usr/bin/env bash\nshift\nexec "$@"\n')
  program("scontrol", '#!/usr/bin/env bash\necho "$@" > requeued\n')
  trainer = program("trainer", TRAINER)
  text = subprocess.run(
    ["bash", LAUNCH / "slurm.sh", "--dry-run", "--", "wait", "--process_id=0"],
    cwd=ROOT,
    env={"PATH": "/usr/bin:/bin", "TASKMOE": str(trainer)},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout
  (tmp_path / "job.sh").write_text(
    text.partition("<<'JOB'\n")[2].removesuffix("JOB\n")
  )
  path = os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"])
  job = subprocess.Popen(
    ["bash", "job.sh"],
    cwd=tmp_path,
    env={"PATH": path, "SLURM_JOB_ID": "17"},
    stdout=subprocess.DEVNULL,
  )
  wait_for(tmp_path / "started-0")
  job.send_signal(signal.SIGTERM)
  assert job.wait(timeout=20) == 0
  assert (tmp_path / "saved-0").exists()
  assert (tmp_path / "requeued").read_text() == "requeue 17\n"
