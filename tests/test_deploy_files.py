"""The files that platforms read: Dockerfile, .dockerignore, Railway, Render, Compose and Kubernetes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from compose_spec import PyCompose

from bot.config import DEFAULTS
from tests.acceptance.processes import STOP_SECONDS_MAX
from tests.conftest import ROOT
from tests.dockerfile import image_environment, is_ignored, lets_through, one, stages
from tests.pages import quoted, rows, section, text_of

USER = 10001
GRACE_SECONDS = 30


def yaml_of(name: str) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all((ROOT / name).read_text("ascii")))


def railway() -> dict[str, Any]:
    """Return the project that .railway/railway.py describes, as Railway's command line evaluates it."""
    spec = importlib.util.spec_from_file_location("railway_project", ROOT / ".railway/railway.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph: dict[str, Any] = module.main().to_graph()
    return graph


def railway_bot() -> dict[str, Any]:
    """Return the only service of the Railway project."""
    (found,) = [each for each in railway()["resources"] if each["type"] == "service"]
    return dict(found)


def render_bot() -> dict[str, Any]:
    """Return the only service of render.yaml."""
    (blueprint,) = yaml_of("render.yaml")
    assert set(blueprint) == {"services"}
    (found,) = blueprint["services"]
    return dict(found)


def compose() -> dict[str, Any]:
    """Return the Compose file."""
    (found,) = yaml_of("docs/deploy/compose.yaml")
    return dict(found)


def kubernetes(kind: str) -> dict[str, Any]:
    """Return the only object of a kind in the Kubernetes file."""
    (found,) = [each for each in yaml_of("docs/deploy/kubernetes.yaml") if each["kind"] == kind]
    return dict(found)


def pod() -> dict[str, Any]:
    """Return what the StatefulSet says of its pod."""
    return dict(kubernetes("StatefulSet")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    """Return the pod's only container."""
    (found,) = pod()["containers"]
    return dict(found)


# The image


def test_the_image_has_two_stages_on_the_same_slim_python() -> None:
    """Of the first stage the image takes /app alone, and both stand on the same slim Python, which the tests run on."""
    build, final = stages()
    base = one(final, "FROM").text
    assert one(build, "FROM").text == f"{base} AS build"
    assert re.fullmatch(r"python:3\.1[1-3]-slim", base)
    assert [step.text for step in final if step.word in {"COPY", "ADD"}] == ["--from=build /app /app"]


def test_the_image_installs_by_the_locks_alone() -> None:
    """Nothing is installed but by .ci/setup, with the drivers of the stores, and that asks for every hash."""
    steps = [step.text for stage in stages() for step in stage if step.word == "RUN"]
    installing = [step for step in steps if re.search(r"\binstall\b(?! --directory)|\.ci/setup|\bapt|curl|wget", step)]
    assert [step.split(" && ")[0] for step in installing] == [".ci/setup stores"]
    installs = re.findall(r"-m pip install.*", text_of(".ci/setup"))
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_what_the_image_runs_has_no_shell_in_between() -> None:
    """Entry point, command and health check are in the exec form, and SIGTERM stops it."""
    final = stages()[-1]
    assert one(final, "ENTRYPOINT").array() == ["/app/.ci/start"]
    assert one(final, "CMD").array() == ["python", "main.py"]
    assert one(final, "HEALTHCHECK").array()[0] == "python"
    assert one(final, "STOPSIGNAL").text == "SIGTERM"
    assert text_of(".ci/start").rstrip().endswith('\nexec "$@"')
    assert os.access(ROOT / ".ci/start", os.X_OK)


def test_the_image_says_nothing_that_a_platform_must_say() -> None:
    """No VOLUME, which Railway refuses; no STATE_DIR, which would win over its volume; no USER, who could not take over
    a disk of root's; and no variable but Python's, the port's and the volume's.
    """
    words = {step.word for stage in stages() for step in stage}
    assert words <= set("FROM WORKDIR COPY RUN ENV EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD".split())
    assert {name for name in image_environment() if not name.startswith("PYTHON")} == {
        "PATH",
        "PORT",
        "RAILWAY_VOLUME_MOUNT_PATH",
    }


@pytest.mark.parametrize(
    ("path", "patterns", "kept_out"),
    [
        ("a/temp1", "*/temp*", True),
        ("a/b/temp1", "*/temp*", False),
        ("a/b/temp1", "*/*/temp*", True),
        ("tempa", "temp?", True),
        ("temp", "temp?", False),
        ("x.go", "**/*.go", True),
        ("a/b/x.go", "**/*.go", True),
        ("README.md", "*.md\n!README.md", False),
        ("README-secret.md", "*.md\n!README*.md\nREADME-secret.md", True),
        ("README-secret.md", "*.md\nREADME-secret.md\n!README*.md", False),
        ("a/b", "# a\n\na", True),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(path: str, patterns: str, kept_out: bool) -> None:
    """The examples of Docker's own page come out as it says (docs.docker.com, Build context, .dockerignore files)."""
    assert is_ignored(path, patterns) is kept_out


def test_what_git_knows_of_the_program_goes_into_the_image_and_nothing_else_that_it_knows() -> None:
    """Of all files in git, those of .ci and bot, main.py and the licence go to the builder, and no others."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = {path for path in listing.stdout.split("\0") if path}
    wanted = {path for path in tracked if path.split("/")[0] in {".ci", "bot", "main.py", "LICENSE"}}
    assert {path for path in tracked if lets_through(path)} == wanted


def test_no_secret_and_no_state_goes_into_the_image() -> None:
    """No .env, no history, and none of the files that a state folder may have are sent to the builder."""
    named = [name for line in rows(section("docs/configuration.md", "State")) for name in quoted(line[0])]
    state = [re.sub(r"<\w+>", "0123abcd", name) for name in named]
    assert "kraken_nonce.txt" in state
    paths = [f"bot/{name}" for name in [*state, "bot.json.17", "paper_live.db-wal"]]
    paths += [".env", ".env.production", "bot/.env", ".git/config", ".venv/bin/python", "state/kraken_nonce.txt"]
    assert [path for path in paths if lets_through(path)] == []


# Railway


def test_railway_runs_one_instance_with_time_to_stop() -> None:
    """Railway is told: one instance, no overlap, 30 s to stop, never to sleep, restarts, and no command of its own."""
    service = railway_bot()
    deploy = service["deploy"]
    assert [region["numReplicas"] for region in deploy.pop("multiRegionConfig").values()] == [1]
    # Numbers and not text, which Railway refuses.
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


def test_railway_mounts_a_volume_where_the_service_is() -> None:
    """The Railway project has one volume, mounted at /data, in the region of the service."""
    (volume,) = [each for each in railway()["resources"] if each["type"] == "volume"]
    service = railway_bot()
    (mounted,) = service["volumeAttachments"].values()
    assert mounted["mountPath"] == "/data"
    assert mounted["volume"] == volume["address"]
    assert [volume["config"]["region"]] == list(service["deploy"]["multiRegionConfig"])


def test_railway_keeps_every_setting_and_is_told_none() -> None:
    """No value stands in the Railway project, and a setting that was made in the dashboard is kept, whichever it is."""
    assert railway_bot()["variables"] == {name: {"type": "preserve"} for name in DEFAULTS}


# Render

# render.com/docs/blueprint-spec, of a service of type web that is built from a Dockerfile.
BLUEPRINT_KEYS = set(
    "type name runtime repo branch region plan dockerfilePath dockerContext dockerCommand preDeployCommand numInstances"
    " scaling healthCheckPath autoDeployTrigger buildFilter disk envVars domains previews rootDir renderSubdomainPolicy"
    " maintenanceMode registryCredential".split()
)


def test_render_runs_one_instance_with_a_disk() -> None:
    """Render is told: one instance of the Dockerfile, on a plan that may have a disk, with the disk at /data, that its
    health is at /healthz, and to deploy when somebody says so.
    """
    service = render_bot()
    assert set(service) <= BLUEPRINT_KEYS
    assert service["type"] == "web"
    assert service["runtime"] == "docker"
    assert service["plan"] == "starter"
    assert service["numInstances"] == 1
    assert service["healthCheckPath"] == "/healthz"
    assert service["disk"] == {"name": "kraken-bot-state", "mountPath": "/data", "sizeGB": 1}
    # The word and not YAML's false.
    assert service["autoDeployTrigger"] == "off"


def test_render_is_not_told_what_it_refuses_beside_a_disk() -> None:
    """render.yaml has no shutdown delay and no scaling, which Render refuses for a service with a disk."""
    assert "disk" in render_bot()
    assert {"maxShutdownDelaySeconds", "scaling"} & set(render_bot()) == set()


def test_render_asks_for_secrets_and_is_told_none() -> None:
    """The keys are asked for by the dashboard, the token is made by Render, and no value stands in render.yaml."""
    variables = {each.pop("key"): each for each in render_bot()["envVars"]}
    assert variables == {
        "KRAKEN_API_KEY": {"sync": False},
        "KRAKEN_API_SECRET": {"sync": False},
        "STATUS_TOKEN": {"generateValue": True},
    }


# Compose


def test_the_compose_file_is_one() -> None:
    """The Compose file keeps to the Compose specification, and every network and volume that it uses is in it."""
    PyCompose.from_yaml((ROOT / "docs/deploy/compose.yaml").read_text("ascii")).validate()


@pytest.mark.parametrize("name", ["bot", "redis"])
def test_what_compose_runs_has_no_rights_and_writes_to_its_volume_alone(name: str) -> None:
    """Each service of the Compose file is no root, has no capabilities, a read-only root and one named volume."""
    service = compose()["services"][name]
    assert service["user"] not in {"root", "0", "0:0"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == f"{GRACE_SECONDS}s"
    assert service["restart"] == "unless-stopped"
    (volume,) = service["volumes"]
    assert volume.split(":")[0] in compose()["volumes"]
    assert volume.split(":")[1] == "/data"


def test_the_bot_in_compose_shares_its_nonces_through_the_redis_beside_it() -> None:
    """The bot begins when the Redis answers, uses it as its store, keeps its state in /data, and its page is for this
    machine only; its secrets come from .env.
    """
    bot = compose()["services"]["bot"]
    assert bot["environment"] == {"PORT": "8080", "STATE_DIR": "/data", "NONCE_STORE": "redis://redis:6379/0"}
    assert bot["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert bot["user"] == f"{USER}:{USER}"
    assert bot["ports"] == ["127.0.0.1:8080:8080"]
    assert bot["env_file"] == [{"path": "../../.env", "required": False}]
    here = ROOT / "docs/deploy"
    assert (here / bot["build"]).resolve() == ROOT
    assert "healthcheck" not in bot, "the image has one"


def test_the_redis_in_compose_loses_nothing_and_is_seen_by_the_bot_alone() -> None:
    """The Redis syncs each write to its log, evicts nothing, and has no way out of the network that it shares."""
    redis = compose()["services"]["redis"]
    server, *options = redis["command"]
    assert server == "redis-server"
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--maxmemory-policy": "noeviction",
    }
    assert redis["networks"] == ["store"]
    assert compose()["networks"]["store"] == {"internal": True}
    assert "ports" not in redis


# Kubernetes


@pytest.mark.parametrize("kind", ["Service", "StatefulSet"])
def test_the_kubernetes_file_keeps_to_the_schema(kind: str) -> None:
    """Each object is one of Kubernetes 1.29, the first with ReadWriteOncePod for all, without a word that it lacks."""
    assert kubernetes_validate.validate(kubernetes(kind), "1.29", strict=True) == "1.29"


def test_kubernetes_never_runs_two_pods() -> None:
    """The bot is a StatefulSet of one, on a disk that one pod at a time can have."""
    spec = kubernetes("StatefulSet")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert container()["volumeMounts"] == [{"name": claim["metadata"]["name"], "mountPath": "/data"}]
    assert pod()["terminationGracePeriodSeconds"] == GRACE_SECONDS


def test_a_pod_that_is_not_ready_can_be_updated_and_seen() -> None:
    """Nothing waits for a bot that is not ready: neither an update of the StatefulSet, nor who opens its page."""
    assert kubernetes("StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"
    assert kubernetes("Service")["spec"]["publishNotReadyAddresses"] is True


def test_kubernetes_asks_whether_it_lives_and_whether_it_trades() -> None:
    """A pod is restarted by /healthz and called ready by /readyz, and the Service leads to the port of both."""
    (port,) = container()["ports"]
    paths = {probe: container()[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/healthz", "port": port["name"]},
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }
    assert container()["env"][0] == {"name": "PORT", "value": str(port["containerPort"])}
    service = kubernetes("Service")
    assert [each["port"] for each in service["spec"]["ports"]] == [port["containerPort"]]
    labels = kubernetes("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == kubernetes("StatefulSet")["spec"]["selector"]["matchLabels"]
    assert service["metadata"]["name"] == kubernetes("StatefulSet")["spec"]["serviceName"]


def test_a_pod_has_no_rights_and_its_disk_is_its_groups() -> None:
    """The pod is user 10001, in the group of its disk, without capabilities, a token or a root that can be written."""
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False


def test_a_pod_has_its_secrets_from_a_secret() -> None:
    """Settings come from a Secret that must be there; in the file itself are the port and the folder alone."""
    assert container()["envFrom"] == [{"secretRef": {"name": "kraken-bot"}}]
    assert {each["name"]: each["value"] for each in container()["env"]} == {"PORT": "8080", "STATE_DIR": "/data"}


# All of them


def test_every_platform_gives_more_time_than_the_bot_needs() -> None:
    """Railway, Compose and Kubernetes are told to wait thrice as long as the tests wait for the bot to stop."""
    assert 3 * STOP_SECONDS_MAX <= GRACE_SECONDS


def test_one_user_for_all() -> None:
    """Image, start and platforms name the same user."""
    final = stages()[-1]
    (step,) = [step.text for step in final if step.word == "RUN"]
    assert re.findall(r"--[ug]id (\d+)", step) == [str(USER)] * 3
    assert re.findall(r"\d{4,}", text_of(".ci/start").partition("\nset ")[2]) == ["0700", *[str(USER)] * 4]
