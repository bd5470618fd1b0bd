"""The JobSet manifest against the fields that its API knows.

They are those of jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1, as far as a
training may use them; a misspelt or misplaced field fails here, and not on a
cluster.
"""

import re

import pytest
import yaml

from tests.launch.conftest import LAUNCH

STRING, NUMBER, FLAG = str, int, bool
# A field that must be there ends with "!".
POD = {
  "restartPolicy!": {"Never", "OnFailure", "Always"},
  "terminationGracePeriodSeconds": NUMBER,
  "serviceAccountName": STRING,
  "nodeSelector": {STRING: STRING},
  "containers!": [
    {
      "name!": STRING,
      "image!": STRING,
      "command": [STRING],
      "args": [STRING],
      "env": [{"name!": STRING, "value": STRING}],
      "ports": [{"containerPort!": NUMBER, "name": STRING}],
      "resources": {
        "requests": {STRING: NUMBER},
        "limits": {STRING: NUMBER},
      },
    }
  ],
}
METADATA = {
  "name": STRING,
  "namespace": STRING,
  "labels": {STRING: STRING},
  "annotations": {STRING: STRING},
}
JOB = {
  "parallelism": NUMBER,
  "completions": NUMBER,
  "completionMode": {"Indexed", "NonIndexed"},
  "backoffLimit": NUMBER,
  "activeDeadlineSeconds": NUMBER,
  "podFailurePolicy": {
    "rules!": [
      {
        "action!": {"FailJob", "FailIndex", "Ignore", "Count"},
        "onPodConditions": [
          {"type!": STRING, "status!": {"True", "False", "Unknown"}}
        ],
        "onExitCodes": {
          "containerName": STRING,
          "operator!": {"In", "NotIn"},
          "values!": [NUMBER],
        },
      }
    ]
  },
  "template!": {"metadata": METADATA, "spec!": POD},
}
JOBSET = {
  "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
  "kind!": {"JobSet"},
  "metadata!": METADATA,
  "spec!": {
    "suspend": FLAG,
    "ttlSecondsAfterFinished": NUMBER,
    "network": {
      "enableDNSHostnames": FLAG,
      "publishNotReadyAddresses": FLAG,
      "subdomain": STRING,
    },
    "successPolicy": {
      "operator!": {"All", "Any"},
      "targetReplicatedJobs": [STRING],
    },
    "failurePolicy": {
      "maxRestarts": NUMBER,
      "restartStrategy": {"Recreate", "BlockingRecreate"},
      "rules": [
        {
          "name!": STRING,
          "action!": {
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
          },
          "onJobFailureReasons": [
            {
              "BackoffLimitExceeded",
              "DeadlineExceeded",
              "FailedIndexes",
              "MaxFailedIndexesExceeded",
              "PodFailurePolicy",
            }
          ],
          "targetReplicatedJobs": [STRING],
        }
      ],
    },
    "replicatedJobs!": [
      {
        "name!": STRING,
        "replicas": NUMBER,
        "template!": {"metadata": METADATA, "spec!": JOB},
      }
    ],
  },
}


def mistakes(value, schema, place="JobSet"):
  """Everything in which a value is not what the schema says."""
  if isinstance(schema, type):
    return [] if type(value) is schema else [f"{place}: {value!r}"]
  if isinstance(schema, set):
    return [] if value in schema else [f"{place}: {value!r}"]
  if isinstance(schema, list):
    if not isinstance(value, list):
      return [f"{place}: no list"]
    return [
      found
      for i, item in enumerate(value)
      for found in mistakes(item, schema[0], f"{place}[{i}]")
    ]
  if not isinstance(value, dict):
    return [f"{place}: no mapping"]
  if STRING in schema:
    return [
      found
      for key, item in value.items()
      for found in mistakes(item, schema[STRING], f"{place}.{key}")
    ]
  known = {name.removesuffix("!"): inner for name, inner in schema.items()}
  needed = {name[:-1] for name in schema if name.endswith("!")}
  found = [f"{place}: lacks {name}" for name in sorted(needed - value.keys())]
  for key, item in value.items():
    if key not in known:
      found.append(f"{place}: unknown {key}")
    else:
      found += mistakes(item, known[key], f"{place}.{key}")
  return found


@pytest.fixture
def manifest(launch):
  def make(*flags):
    text = launch(
      "gke_jobset.sh",
      "manifest",
      *("--name=wmt", "--image=gcr.io/p/taskmoe", "--account=trainer"),
      *("--accelerator=tpu-v5p-slice", "--topology=4x4x4", *flags),
      *("--", "train", '--gin.RUN_DIR=gs://b/a "b\\c', "--gin_file=r.gin"),
    )
    assert not re.search(r"\$\{", text)
    return yaml.safe_load(text)

  return make


@pytest.mark.parametrize("slices", [1, 2])
def test_the_jobset(manifest, slices):
  found = manifest(*([f"--slices={slices}"] if slices > 1 else []))
  assert mistakes(found, JOBSET) == []
  (job,) = found["spec"]["replicatedJobs"]
  assert job["replicas"] == slices
  job = job["template"]["spec"]
  # 64 chips, four of a host.
  assert (job["parallelism"], job["completions"]) == (16, 16)
  pod = job["template"]["spec"]
  assert pod["terminationGracePeriodSeconds"] >= 120
  (container,) = pod["containers"]
  assert container["args"] == [
    "train",
    '--gin.RUN_DIR=gs://b/a "b\\c',
    "--gin_file=r.gin",
  ]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_preemption_uses_up_no_restarts(manifest):
  """A Pod that is disrupted fails its Job for a reason of its own."""
  spec = manifest()["spec"]
  (rule,) = spec["failurePolicy"]["rules"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  gone, saved = job["podFailurePolicy"]["rules"]
  assert gone["onPodConditions"][0]["type"] == "DisruptionTarget"
  assert saved["onExitCodes"]["values"] == [75]
  # Kubernetes takes a policy only with these two.
  assert job["template"]["spec"]["restartPolicy"] == "Never"
  assert job["backoffLimit"] == 0


def test_the_check_itself(manifest):
  found = manifest()
  job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
  del job["template"]["spec"]["restartPolicy"]
  job["paralellism"] = job.pop("parallelism")
  found["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
  found["spec"]["network"]["enableDNSHostnames"] = "true"
  place = "JobSet.spec.replicatedJobs[0].template.spec"
  assert sorted(mistakes(found, JOBSET)) == [
    "JobSet.spec.failurePolicy.rules[0].action: 'Restart'",
    "JobSet.spec.network.enableDNSHostnames: 'true'",
    f"{place}.template.spec: lacks restartPolicy",
    f"{place}: unknown paralellism",
  ]


def test_all_yaml_parses():
  paths = list(LAUNCH.rglob("*.yaml"))
  assert paths
  for path in paths:
    assert yaml.safe_load(path.read_text().replace("${", "{x: "))
