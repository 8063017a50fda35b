"""cluster/kuberay.yaml against KubeRay's RayJob, as far as it uses it: names and types of fields. Nothing is run."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

FILE = Path(__file__).parents[1] / "cluster" / "kuberay.yaml"


def record(required: tuple[str, ...] = (), **fields: dict) -> dict:
    return {"type": "object", "properties": fields, "required": [*required], "additionalProperties": False}


def texts() -> dict:
    return {"type": "object", "additionalProperties": TEXT}


def array(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(\.\d+)?([KMGT]i?|m)?$"}}
POD = record(
    ("spec",),
    metadata=record(labels=texts(), annotations=texts()),
    spec=record(
        ("containers",),
        containers=array(
            record(
                ("name", "image"),
                name=TEXT,
                image=TEXT,
                env=array(record(("name",), name=TEXT, value=TEXT)),
                resources=record(requests=QUANTITIES, limits=QUANTITIES),
                volumeMounts=array(record(("name", "mountPath"), name=TEXT, mountPath=TEXT)),
            )
        ),
        volumes=array(
            record(
                ("name",),
                name=TEXT,
                persistentVolumeClaim=record(("claimName",), claimName=TEXT),
                emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
            )
        ),
        nodeSelector=texts(),
    ),
)
CLUSTER = record(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=record(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    headGroupSpec=record(("template", "rayStartParams"), template=POD, rayStartParams=texts(), serviceType=TEXT),
    workerGroupSpecs=array(
        record(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            **{"groupName": TEXT, "rayStartParams": texts(), "template": POD},
            **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts"), COUNT),
        )
    ),
)
JOB = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=record(("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    spec=record(
        **dict.fromkeys(("entrypoint", "runtimeEnvYAML"), TEXT),
        **dict.fromkeys(("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"), COUNT),
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        shutdownAfterJobFinishes=FLAG,
        rayClusterSpec=CLUSTER,
    ),
)
"""Written after ray-operator/apis/ray/v1 of KubeRay, from which its CRD is made."""


def test_the_file_has_the_fields_of_a_ray_job():
    Draft202012Validator(JOB).validate(yaml.safe_load(FILE.read_text()))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "shutdownAfterJobFinished"), True),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), None),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "env", 0, "value"), 5),
    ],
)
def test_a_wrong_name_or_type_would_be_seen(place, value):
    part = job = yaml.safe_load(FILE.read_text())
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    assert not Draft202012Validator(JOB).is_valid(job)
