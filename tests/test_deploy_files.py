"""The files for Railway, Render, Docker Compose, Kubernetes and systemd."""

from __future__ import annotations

import importlib.util
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from compose_spec import PyCompose

from bot.cli.parser import parse_arguments
from bot.config import DEFAULTS
from tests.acceptance.processes import STOP_TIMEOUT_SECONDS
from tests.conftest import ROOT
from tests.pages import code_blocks, read_page

USER = 10001
GRACE_SECONDS = 30


def load_yaml(name: str) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all((ROOT / name).read_text("ascii")))


def railway_project() -> dict[str, Any]:
    """Return the project that .railway/railway.py describes, as Railway's command line evaluates it."""
    spec = importlib.util.spec_from_file_location("railway_project", ROOT / ".railway/railway.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph: dict[str, Any] = module.main().to_graph()
    return graph


def railway_service() -> dict[str, Any]:
    """Return the only service of the Railway project."""
    (found,) = [each for each in railway_project()["resources"] if each["type"] == "service"]
    return dict(found)


def render_service() -> dict[str, Any]:
    """Return the only service of render.yaml."""
    (blueprint,) = load_yaml("render.yaml")
    assert set(blueprint) == {"services"}
    (found,) = blueprint["services"]
    return dict(found)


def compose_file() -> dict[str, Any]:
    """Return the Compose file."""
    (found,) = load_yaml("docs/deploy/compose.yaml")
    return dict(found)


def kubernetes_object(kind: str) -> dict[str, Any]:
    """Return the only object of a kind in the Kubernetes file."""
    (found,) = [each for each in load_yaml("docs/deploy/kubernetes.yaml") if each["kind"] == kind]
    return dict(found)


def pod_spec() -> dict[str, Any]:
    """Return the pod's specification in the StatefulSet."""
    return dict(kubernetes_object("StatefulSet")["spec"]["template"]["spec"])


def pod_container() -> dict[str, Any]:
    """Return the pod's only container."""
    (found,) = pod_spec()["containers"]
    return dict(found)


# Railway


def test_railway_runs_one_instance_with_time_to_stop() -> None:
    """Railway runs one instance, without overlap, with 30 s to stop, without sleep, with restarts, and no own
    command."""
    service = railway_service()
    deploy = service["deploy"]
    assert [region["numReplicas"] for region in deploy.pop("multiRegionConfig").values()] == [1]
    # Numbers, because Railway refuses text.
    assert deploy == {
        "overlapSeconds": 0,
        "drainingSeconds": GRACE_SECONDS,
        "sleepApplication": False,
        "restartPolicyType": "ON_FAILURE",
        "restartPolicyMaxRetries": 10,
        "healthcheckPath": "/healthz",
    }
    assert service["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    assert "source" not in service, "no repository of anybody's"


def test_railway_volume_is_in_the_region_of_the_service() -> None:
    """The Railway project has one volume, mounted at /data, in the region of the service."""
    (volume,) = [each for each in railway_project()["resources"] if each["type"] == "volume"]
    service = railway_service()
    (mounted,) = service["volumeAttachments"].values()
    assert mounted["mountPath"] == "/data"
    assert mounted["volume"] == volume["address"]
    assert [volume["config"]["region"]] == list(service["deploy"]["multiRegionConfig"])


def test_railway_preserves_every_setting() -> None:
    """The Railway project contains no value, and keeps every setting that was made in the dashboard."""
    assert railway_service()["variables"] == {name: {"type": "preserve"} for name in DEFAULTS}


# Render

# The keys at render.com/docs/blueprint-spec for a service of type web that is built from a Dockerfile.
BLUEPRINT_KEYS = set(
    "type name runtime repo branch region plan dockerfilePath dockerContext dockerCommand preDeployCommand numInstances"
    " scaling healthCheckPath autoDeployTrigger buildFilter disk envVars domains previews rootDir renderSubdomainPolicy"
    " maintenanceMode registryCredential".split()
)


def test_render_runs_one_instance_with_a_disk() -> None:
    """Render runs one instance of the Dockerfile, on a plan that allows a disk, with the disk at /data, the health
    check at /healthz, and deploys on request only."""
    service = render_service()
    assert set(service) <= BLUEPRINT_KEYS
    assert service["type"] == "web"
    assert service["runtime"] == "docker"
    assert service["plan"] == "starter"
    assert service["numInstances"] == 1
    assert service["healthCheckPath"] == "/healthz"
    assert service["disk"] == {"name": "kraken-bot-state", "mountPath": "/data", "sizeGB": 1}
    # The string, not YAML's false.
    assert service["autoDeployTrigger"] == "off"


def test_render_has_no_option_that_a_disk_forbids() -> None:
    """render.yaml has no shutdown delay and no scaling, which Render refuses for a service with a disk."""
    assert "disk" in render_service()
    assert {"maxShutdownDelaySeconds", "scaling"} & set(render_service()) == set()


def test_render_contains_no_secret() -> None:
    """The dashboard asks for the keys, Render makes the token, and render.yaml contains no value."""
    variables = {each.pop("key"): each for each in render_service()["envVars"]}
    assert variables == {
        "KRAKEN_API_KEY": {"sync": False},
        "KRAKEN_API_SECRET": {"sync": False},
        "STATUS_TOKEN": {"generateValue": True},
    }


# Compose


def test_compose_file_is_valid() -> None:
    """The Compose file is valid by the Compose specification, and defines every network and volume that it uses."""
    PyCompose.from_yaml((ROOT / "docs/deploy/compose.yaml").read_text("ascii")).validate()


@pytest.mark.parametrize("name", ["bot", "redis"])
def test_compose_services_are_unprivileged(name: str) -> None:
    """Each service of the Compose file runs without root, with no capabilities, a read-only root and one named
    volume."""
    service = compose_file()["services"][name]
    assert service["user"] not in {"root", "0", "0:0"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == f"{GRACE_SECONDS}s"
    assert service["restart"] == "unless-stopped"
    (volume,) = service["volumes"]
    assert volume.split(":")[0] in compose_file()["volumes"]
    assert volume.split(":")[1] == "/data"


def test_compose_bot_uses_the_redis_service() -> None:
    """The bot starts when Redis answers, uses it as its store, keeps its state in /data, and its page is for this
    machine only; its secrets come from .env."""
    bot = compose_file()["services"]["bot"]
    assert bot["environment"] == {"PORT": "8080", "STATE_DIR": "/data", "NONCE_STORE": "redis://redis:6379/0"}
    assert bot["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert bot["user"] == f"{USER}:{USER}"
    assert bot["ports"] == ["127.0.0.1:8080:8080"]
    assert bot["env_file"] == [{"path": "../../.env", "required": False}]
    here = ROOT / "docs/deploy"
    assert (here / bot["build"]).resolve() == ROOT
    assert "healthcheck" not in bot, "the image has one"


def test_compose_redis_is_durable_and_internal() -> None:
    """Redis syncs each write to its log, evicts nothing, and is on an internal network only."""
    redis = compose_file()["services"]["redis"]
    server, *options = redis["command"]
    assert server == "redis-server"
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--maxmemory-policy": "noeviction",
    }
    assert redis["networks"] == ["store"]
    assert compose_file()["networks"]["store"] == {"internal": True}
    assert "ports" not in redis


# Kubernetes


@pytest.mark.parametrize("kind", ["Service", "StatefulSet"])
def test_kubernetes_file_is_valid(kind: str) -> None:
    """Each object is valid in Kubernetes 1.29, the first with ReadWriteOncePod for all, without unknown fields."""
    assert kubernetes_validate.validate(kubernetes_object(kind), "1.29", strict=True) == "1.29"


def test_kubernetes_never_runs_two_pods() -> None:
    """The bot is a StatefulSet of one, on a disk that one pod at a time can mount."""
    spec = kubernetes_object("StatefulSet")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert pod_container()["volumeMounts"] == [{"name": claim["metadata"]["name"], "mountPath": "/data"}]
    assert pod_spec()["terminationGracePeriodSeconds"] == GRACE_SECONDS


def test_unready_pod_can_be_updated_and_reached() -> None:
    """A bot that is not ready blocks neither an update of the StatefulSet nor access to its page."""
    assert kubernetes_object("StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"
    assert kubernetes_object("Service")["spec"]["publishNotReadyAddresses"] is True


def test_kubernetes_probes_use_healthz_and_readyz() -> None:
    """/healthz decides about a restart and /readyz about readiness, and the Service targets the port of both."""
    (port,) = pod_container()["ports"]
    paths = {probe: pod_container()[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/healthz", "port": port["name"]},
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }
    assert pod_container()["env"][0] == {"name": "PORT", "value": str(port["containerPort"])}
    service = kubernetes_object("Service")
    assert [each["port"] for each in service["spec"]["ports"]] == [port["containerPort"]]
    labels = kubernetes_object("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == kubernetes_object("StatefulSet")["spec"]["selector"]["matchLabels"]
    assert service["metadata"]["name"] == kubernetes_object("StatefulSet")["spec"]["serviceName"]


def test_pod_is_unprivileged_and_owns_its_disk() -> None:
    """The pod runs as user 10001, in the group of its disk, without capabilities, a token or a writable root."""
    assert pod_spec()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod_container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod_spec()["automountServiceAccountToken"] is False


def test_pod_settings_come_from_a_secret() -> None:
    """Settings come from a Secret that must exist; the file itself contains the port and the folder alone."""
    assert pod_container()["envFrom"] == [{"secretRef": {"name": "kraken-bot"}}]
    assert {each["name"]: each["value"] for each in pod_container()["env"]} == {"PORT": "8080", "STATE_DIR": "/data"}


# A server with systemd


def test_systemd_unit_runs_main() -> None:
    """The systemd unit on the page starts main.py as a service, with its state in the folder that systemd creates,
    and as much time to stop as everywhere."""
    (text,) = code_blocks(read_page("docs/deploying.md"), "ini")
    pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    unit = {name: value for name, value in pairs if name != "Environment"}
    environment = dict(value.split("=", 1) for name, value in pairs if name == "Environment")
    python, program, *words = unit["ExecStart"].split()
    assert python == f"{unit['WorkingDirectory']}/.venv/bin/python"
    assert (ROOT / program).is_file()
    assert parse_arguments(words).forever
    assert environment["STATE_DIR"] == f"/var/lib/{unit['StateDirectory']}"
    assert unit["TimeoutStopSec"] == str(GRACE_SECONDS)
    assert unit["User"] != "root"


# All platforms


def test_every_platform_allows_enough_time_to_stop() -> None:
    """Railway, Compose and Kubernetes wait three times as long as the tests wait for the bot to stop."""
    assert 3 * STOP_TIMEOUT_SECONDS <= GRACE_SECONDS
