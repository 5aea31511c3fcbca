"""The Kubernetes manifests: against a schema of our own, and KubeRay's where it is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import CHECKOUT, KUBERAY, RAY_KINDS, cluster_spec, document, load, pods

CRDS = next(
    (
        folder
        for parent in CHECKOUT.parents
        if (folder := parent / "shared" / "data" / "kuberay").is_dir()
    ),
    None,
)
DOCUMENTS = [each for path in KUBERAY for each in load(path)]


def an_object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
POD = {"type": "object", "required": ["spec"]}
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
RAY_CLUSTER = an_object(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "enableInTreeAutoscaling": {"const": True},
        "autoscalerOptions": an_object(
            {"version": {"const": "v2"}, "idleTimeoutSeconds": COUNT},
            {"resources": {"type": "object"}, "securityContext": {"type": "object"}},
        ),
        "authOptions": an_object({"mode": {"const": "token"}, "secretName": TEXT}),
        "headGroupSpec": an_object(
            {"serviceType": {"const": "ClusterIP"}, "rayStartParams": PARAMETERS, "template": POD}
        ),
        "workerGroupSpecs": {
            "type": "array",
            "minItems": 1,
            "items": an_object(
                {
                    "groupName": TEXT,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": PARAMETERS,
                    "template": POD,
                }
            ),
        },
    },
    {
        "gcsFaultToleranceOptions": an_object(
            {
                "redisAddress": {"type": "string", "pattern": r"^rediss?://.+:\d+$"},
                "redisPassword": an_object({"valueFrom": {"type": "object"}}),
            }
        )
    },
)
RAY_JOB = an_object(
    {
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        "entrypoint": TEXT,
        "entrypointNumCpus": {"type": "number"},
        "entrypointNumGpus": {"type": "number"},
        "backoffLimit": COUNT,
        "activeDeadlineSeconds": COUNT,
        "shutdownAfterJobFinishes": {"const": True},
        "ttlSecondsAfterFinished": COUNT,
        "rayClusterSpec": RAY_CLUSTER,
    }
)
SCHEDULE = {"type": "string", "pattern": r"^(\S+ ){4}\S+$"}
OWN = {
    "RayCluster": RAY_CLUSTER,
    "RayJob": RAY_JOB,
    "RayCronJob": an_object({"schedule": SCHEDULE, "timeZone": TEXT, "jobTemplate": RAY_JOB}),
    "CronJob": {
        "type": "object",
        "properties": {
            "schedule": SCHEDULE,
            "concurrencyPolicy": {"const": "Forbid"},
            "jobTemplate": an_object({"spec": {"type": "object", "required": ["template"]}}),
        },
        "required": ["schedule", "concurrencyPolicy", "jobTemplate"],
    },
    "PersistentVolumeClaim": an_object(
        {
            "accessModes": {"const": ["ReadWriteMany"]},
            "resources": an_object({"requests": an_object({"storage": TEXT})}),
        }
    ),
    "Service": an_object(
        {
            "type": {"const": "ClusterIP"},
            "selector": {"type": "object"},
            "ports": {"type": "array", "items": an_object({"port": COUNT})},
        }
    ),
    "StatefulSet": {
        "type": "object",
        "required": ["serviceName", "selector", "template", "volumeClaimTemplates"],
    },
}
VERSIONS = {
    **dict.fromkeys(RAY_KINDS, "ray.io/v1"),
    "CronJob": "batch/v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
}


def strict(schema: Any) -> Any:
    """Turn a schema of Kubernetes' into one that refuses unknown fields, as its server does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        found["properties"] = {key: strict(each) for key, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    if found.pop("nullable", False) and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


@pytest.mark.parametrize("manifest", DOCUMENTS, ids=lambda each: each["kind"])
def test_manifests_meet_our_schema(manifest: dict[str, Any]) -> None:
    assert manifest["apiVersion"] == VERSIONS[manifest["kind"]]
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.validate(manifest["spec"], OWN[manifest["kind"]])


@pytest.mark.skipif(CRDS is None, reason="KubeRay's definitions are not at hand")
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_manifests_meet_kuberays_definitions(kind: str) -> None:
    assert CRDS is not None
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    ]
    schema = strict(schema)
    manifest = document(kind)
    # The schema says no more of metadata than that it is an object.
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(manifest, schema)
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        jsonschema.validate({**manifest, "spec": {**manifest["spec"], "entryPoint": ""}}, schema)


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_gpu_workers_scale_from_nothing_and_the_head_has_no_work(kind: str) -> None:
    spec = cluster_spec(kind)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (gpu,) = spec["workerGroupSpecs"]
    assert (gpu["replicas"], gpu["minReplicas"]) == (0, 0)
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("manifest", DOCUMENTS, ids=lambda each: each["kind"])
def test_pods_are_not_root_and_say_what_they_need(manifest: dict[str, Any]) -> None:
    for pod in pods(manifest):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("manifest", DOCUMENTS, ids=lambda each: each["kind"])
def test_every_mount_has_its_volume(manifest: dict[str, Any]) -> None:
    claims = [
        claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])
    ]
    for pod in pods(manifest):
        volumes = [*(volume["name"] for volume in pod.get("volumes", [])), *claims]
        mounts = [mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]]
        assert sorted(volumes) == sorted(mounts)


def test_no_secret_is_written_down() -> None:
    assert [each["kind"] for each in DOCUMENTS if each["kind"] == "Secret"] == []


def test_rays_version_is_the_tested_one() -> None:
    constraints = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8")
    (tested,) = [line[5:] for line in constraints.splitlines() if line.startswith("ray==")]
    assert {cluster_spec(kind)["rayVersion"] for kind in RAY_KINDS} == {tested}
    for file in ("Dockerfile", "aws.yaml"):
        text = Path(CHECKOUT, "cluster", file).read_text(encoding="utf-8")
        assert f"rayproject/ray:{tested}-" in text
