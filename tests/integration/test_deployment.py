"""The files for compose and Kubernetes, checked against their schemas, the image and a real instance.

No test starts docker or a cluster. The services of the compose file run here as plain processes.
"""

import asyncio
import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from agentscope_protocol.config import settings
from agentscope_protocol.config.settings import Settings
from tests.harness.client import call, texts
from tests.harness.instance import Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.waiting import eventually
from tests.integration.test_units import the, words

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "configs" / "compose.yaml"
KUBERNETES: Final = sorted((ROOT / "configs" / "kubernetes").glob("*.yaml"))
OLDEST: Final = "1.27"  # version of Kubernetes; the newest one is the latest schema
SPARE: Final = 5  # seconds between the longest stop and the time that it is given
TMPFS: Final = "/tmp"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def resources() -> list[dict[str, Any]]:
    return [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text("utf-8"))]


def the_kind(resources: list[dict[str, Any]], kind: str, name: str = "my-app") -> dict[str, Any]:
    (found,) = [each for each in resources if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.fixture(scope="module")
def pod(resources: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = the_kind(resources, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def longest_stop() -> float:
    """Return the longest duration of a stop with the default settings, in seconds."""
    supervisor = Settings().supervisor
    return supervisor.drain_timeout + supervisor.stop_timeout


# -- schemas -------------------------------------------------------------------------------------------


def complaints(path: Path) -> str:
    """Return the errors of a file against the compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


def test_the_compose_file_matches_its_schema(tmp_path: Path) -> None:
    assert complaints(COMPOSE) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("read_only:", "readonly:"), "utf-8")
    assert "readonly" in complaints(wrong)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_the_manifests_match_the_schemas_of_kubernetes(resources: list[dict[str, Any]], version: str) -> None:
    assert len(resources) == 6
    for each in resources:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schema_finds_a_mistake_in_a_manifest(resources: list[dict[str, Any]]) -> None:
    wrong = copy.deepcopy(the_kind(resources, "StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProb"):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


# -- Kubernetes ----------------------------------------------------------------------------------------


def test_a_pod_has_enough_time_to_stop(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["exec"]["command"]
    assert before[0] == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(before[1]) + longest_stop() + SPARE


async def test_the_probes_use_existing_routes(pod: dict[str, Any], shared: Instance) -> None:
    (container,) = pod["containers"]
    for kind in ("livenessProbe", "readinessProbe"):
        assert container[kind]["httpGet"]["port"] == "http"
        assert (await call(shared.port, "GET", container[kind]["httpGet"]["path"])).status == 200


async def test_a_pod_in_maintenance_is_alive_and_not_ready(
    pod: dict[str, Any], start_instance: Callable[..., Instance]
) -> None:
    (container,) = pod["containers"]
    instance = start_instance(workers=1)
    assert instance.command("maintenance", "on").returncode == 0
    probes = [container[kind]["httpGet"]["path"] for kind in ("livenessProbe", "readinessProbe")]
    assert [(await call(instance.port, "GET", path)).status for path in probes] == [200, 503]


def test_a_pod_matches_the_image(pod: dict[str, Any], resources: list[dict[str, Any]]) -> None:
    (container,) = pod["containers"]
    user, group = map(int, the("USER").split(":"))
    outer, inner = pod["securityContext"], container["securityContext"]
    assert (outer["runAsUser"], outer["runAsGroup"], outer["fsGroup"]) == (user, group, group)
    assert outer["runAsNonRoot"]
    assert inner["readOnlyRootFilesystem"]
    assert not inner["allowPrivilegeEscalation"]
    assert inner["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert sorted(mounts.values()) == sorted([*words(the("VOLUME")), TMPFS])
    claims = the_kind(resources, "StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = [each["name"] for each in pod["volumes"]] + [claim["metadata"]["name"] for claim in claims]
    assert sorted(volumes) == sorted(mounts)
    assert [str(port["containerPort"]) for port in container["ports"]] == [the("EXPOSE")]
    assert "command" not in container, "the image defines the command"
    assert "args" not in container


def test_the_services_select_the_pods(resources: list[dict[str, Any]]) -> None:
    labels = the_kind(resources, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for kind, name, key in (
        ("Service", "my-app", "selector"),
        ("Service", "my-app-pods", "selector"),
        ("PodDisruptionBudget", "my-app", "selector"),
        ("NetworkPolicy", "my-app", "podSelector"),
    ):
        selector = the_kind(resources, kind, name)["spec"][key]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    assert the_kind(resources, "StatefulSet")["spec"]["serviceName"] == "my-app-pods"


def test_a_pod_requires_a_token_and_admits_only_its_clients(
    pod: dict[str, Any], resources: list[dict[str, Any]]
) -> None:
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "my-app"}}], "a missing secret holds back the pod"
    secret = the_kind(resources, "Secret")["stringData"]
    with pytest.raises(settings.SettingsError, match=r"server\.auth_token"):  # until its value is set
        settings.load("server: {auth_token: '${API_TOKEN}'}", source="f", env=secret)
    policy = the_kind(resources, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": container["ports"][0]["name"]}]
    assert all(peer.get("podSelector", peer.get("namespaceSelector"))["matchLabels"] for peer in rule["from"])


# -- compose -------------------------------------------------------------------------------------------


def test_a_container_matches_the_image(compose: dict[str, Any]) -> None:
    app = compose["services"]["app"]
    assert float(app["stop_grace_period"].removesuffix("s")) >= longest_stop() + SPARE
    assert [volume.split(":")[1] for volume in app["volumes"]] == words(the("VOLUME"))
    assert {volume.split(":")[0] for volume in app["volumes"]} == compose["volumes"].keys()
    assert app["tmpfs"] == [TMPFS]
    assert (COMPOSE.parent / app["build"]["context"] / app["build"]["dockerfile"]).exists()
    for service in compose["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), (
            "ports are published on the loopback interface only"
        )


def test_the_image_of_the_platform_contains_its_imports(compose: dict[str, Any]) -> None:
    built = compose["services"]["platform"]["build"]["dockerfile_inline"]
    assert "COPY reference_platform " in built
    sources = [path.read_text("utf-8") for path in (ROOT / "reference_platform").glob("*.py")]
    imported = {
        name for text in sources for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    }
    assert imported - sys.stdlib_module_names == {"aiohttp", "reference_platform"}


async def test_the_services_of_the_compose_file_work_together(
    compose: dict[str, Any], new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    token = "made-up-9911"
    platform_service = compose["services"]["platform"]
    port = platform_service["command"][-1]
    text = compose["configs"]["agentapp"]["content"].replace("$$", "$")
    variables = {"PLATFORM_TOKEN": token, "API_TOKEN": "made-up-4711"}
    assert variables.keys() == compose["services"]["app"]["environment"].keys()
    loaded = settings.load(text, source="agentapp.yaml", env=variables)
    assert loaded.server.auth_token is not None
    assert loaded.platform is not None
    assert loaded.platform.endpoint == f"http://platform:{port}/api"
    assert compose["services"]["app"]["configs"][0]["target"] == f"{the('WORKDIR')}/agentapp.yaml"
    with PlatformProcess(token=token) as platform:
        assert platform.command[1:3] == platform_service["command"][1:3]
        platform.start()
        project = make_project()
        (project / "agentapp.yaml").write_text(text.replace(f"http://platform:{port}/api", platform.endpoint))
        instance = new_instance(project, workers=1, platform=True, variables=variables)
        await asyncio.to_thread(instance.start)
        await eventually(
            lambda: platform.instance(loaded.platform.instance_id).get("status") == "running",
            60,
            "a heartbeat",
        )
        authorized = {"Authorization": "Bearer made-up-4711"}
        assert await texts(instance.port, "me", "hello", headers=authorized) == ["hello"]
        assert token not in json.dumps(platform.instance(loaded.platform.instance_id))
