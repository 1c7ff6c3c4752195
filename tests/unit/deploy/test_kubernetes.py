"""The Kubernetes manifests: valid by Kubernetes' own schemas, and in agreement with the services that they run."""

import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployment import CANARY_PORT, PROCESS_VARIABLES, REPOSITORY, SERVICES, VLLM_VARIABLES, dot_env
from recipe_common.tracing import ENDPOINTS

KUBERNETES = REPOSITORY / "deploy/kubernetes"
OLDEST, NEWEST = "1.30", "1.37"  # of Kubernetes: preStop.sleep came with 1.30
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
RESTART_RESERVE_SECONDS = 5

Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def written() -> list[Manifest]:
    """The manifests of base and components as they are written, without kustomize."""
    files = [*(KUBERNETES / "base").glob("*.yaml"), *(KUBERNETES / "components").glob("*/*.yaml")]
    texts = [file.read_text() for file in sorted(files) if file.name != "kustomization.yaml"]
    return [document for text in texts for document in documents(text)]


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What kustomize makes of an overlay."""
    return kustomized(KUBERNETES / "overlays" / overlay)


def kustomized(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder."""
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("kustomize is not on PATH")
    command = [kustomize, "build", str(folder)]
    return documents(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> dict[str, Manifest]:
    """The manifests of some kinds by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] in kinds}


def pod_specs(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    workloads = of_kind(manifests, "Deployment", "StatefulSet", "Job")
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads.items()}


def container(name: str) -> Manifest:
    """The only container of a written workload."""
    (only,) = pod_specs(written())[name]["containers"]
    assert isinstance(only, dict)
    return only


def environment(name: str) -> dict[str, Manifest]:
    return {variable["name"]: variable for variable in container(name)["env"]}


def validate(manifest: Manifest, version: str) -> None:
    if manifest["apiVersion"].startswith("keda.sh/"):
        return  # not one of Kubernetes' own; looked at below
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_what_is_written_fits_the_schemas(version: str) -> None:
    manifests = written()
    assert len(manifests) > 20
    for manifest in manifests:
        validate(manifest, version)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_renders_fits_the_schemas(overlay: str, version: str) -> None:
    for manifest in rendered(overlay):
        validate(manifest, version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_reference_in_an_overlay_has_its_object(overlay: str) -> None:
    manifests = rendered(overlay)
    config_maps, services = of_kind(manifests, "ConfigMap"), of_kind(manifests, "Service")
    for spec in pod_specs(manifests).values():
        for variable in spec["containers"][0]["env"]:
            reference = variable.get("valueFrom", {}).get("configMapKeyRef")
            assert reference is None or reference["key"] in config_maps[reference["name"]]["data"]
        for volume in spec.get("volumes", []):
            assert "configMap" not in volume or volume["configMap"]["name"] in config_maps
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject").values():
        assert scaler["spec"]["scaleTargetRef"]["name"] in of_kind(manifests, "Deployment")
    assert {"qdrant", "canary", *SERVICES} == services.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_carry_the_versions_of_compose(overlay: str) -> None:
    versions = dot_env()
    images = {spec["containers"][0]["image"] for spec in pod_specs(rendered(overlay)).values()}
    generator = "generator-vllm" if overlay == "gpu" else "generator"
    assert images == {
        f"qdrant/qdrant:v{versions['QDRANT_VERSION']}-unprivileged",
        *(f"recipe-{name}:{versions['RECIPE_VERSION']}" for name in ("encoder", "retriever", generator)),
    }


def test_a_generator_with_vllm_has_a_gpu_and_what_vllm_needs() -> None:
    deployment = of_kind(rendered("gpu"), "Deployment")["generator"]["spec"]
    (generator,) = deployment["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert generator["resources"][kind]["nvidia.com/gpu"] == "1"
    given = {variable["name"]: variable.get("value") for variable in generator["env"]}
    assert given["RECIPE_GENERATOR_ENGINE"] == "vllm"
    assert given.keys() <= SERVICES["generator"].variables | PROCESS_VARIABLES | VLLM_VARIABLES
    assert {mount["mountPath"] for mount in generator["volumeMounts"]} == {"/tmp", "/dev/shm"}
    assert generator["securityContext"] == container("generator")["securityContext"]
    # A spare GPU for a roll-out would be idle at all other times.
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert "generator" not in of_kind(rendered("gpu"), "HorizontalPodAutoscaler")


def test_traces_are_off_and_the_component_turns_them_on_and_lets_them_out(tmp_path: Path) -> None:
    assert all(ENDPOINTS[0] not in environment(name) for name in (*SERVICES, "canary"))
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes/overlays/traced"
    overlay.mkdir()
    kustomization = {"resources": ["../production"], "components": ["../../components/traces"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = kustomized(overlay)
    traced = {
        name: variable["value"]
        for name, spec in pod_specs(manifests).items()
        for variable in spec["containers"][0]["env"]
        if variable["name"] == ENDPOINTS[0]
    }
    assert traced == dict.fromkeys([*SERVICES, "canary"], "http://otel-collector.monitoring:4317")
    policy = of_kind(manifests, "NetworkPolicy")["traces"]["spec"]
    assert names(policy["podSelector"]) == traced.keys()
    assert [port["port"] for port in policy["egress"][0]["ports"]] == [4317]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reads_every_variable_that_its_pod_is_given(name: str) -> None:
    assert environment(name).keys() <= SERVICES[name].variables | PROCESS_VARIABLES


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_accepts_the_values_that_its_pod_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kustomization = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())
    log = dict(each.split("=", 1) for each in kustomization["configMapGenerator"][0]["literals"])
    for variable, given in environment(name).items():
        source = given.get("valueFrom", {})
        value = log[source["configMapKeyRef"]["key"]] if "configMapKeyRef" in source else given.get("value", "secret")
        monkeypatch.setenv(variable, value)
    settings = SERVICES[name].settings()
    for field in {"host", "metrics_host"} & type(settings).model_fields.keys():
        assert getattr(settings, field) == "0.0.0.0", f"{name} must listen beyond its own pod"


@pytest.mark.parametrize("name", SERVICES)
def test_pods_and_headless_services_open_the_ports_that_a_service_listens_on(name: str) -> None:
    assert {port["containerPort"] for port in container(name)["ports"]} == SERVICES[name].ports
    service = of_kind(written(), "Service")[name]["spec"]
    assert service["clusterIP"] == "None"
    assert {port["port"] for port in service["ports"]} == SERVICES[name].ports


def test_the_generator_balances_over_the_retrievers() -> None:
    address = environment("generator")["RECIPE_GENERATOR_RETRIEVER"]["value"]
    assert address == f"dns:///retriever:{SERVICES['retriever'].default('port')}"


@pytest.mark.parametrize("name", ["retriever", "generator"])
def test_grpc_servers_have_native_probes_that_leave_time_to_load_a_model(name: str) -> None:
    port = SERVICES[name].default("port")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(name)[probe]["grpc"] == {"port": port}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_ten_minutes_to_load_its_model(name: str) -> None:
    startup = container(name)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


def test_an_encoder_that_is_not_ready_is_not_restarted_for_it() -> None:
    encoder = container("encoder")
    assert encoder["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert encoder["livenessProbe"]["httpGet"]["path"] == "/metrics"


def test_the_generator_drains_as_long_as_a_request_may_take() -> None:
    drain = float(environment("generator")["RECIPE_GENERATOR_DRAIN_SECONDS"]["value"])
    assert drain >= SERVICES["generator"].default("request_seconds")


@pytest.mark.parametrize("name", ["retriever", "generator"])
def test_a_pod_is_killed_only_after_its_drain(name: str) -> None:
    drain = float(environment(name)[f"{SERVICES[name].prefix}DRAIN_SECONDS"]["value"])
    pause = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod_specs(written())[name]["terminationGracePeriodSeconds"]
    assert grace >= pause + drain + RESTART_RESERVE_SECONDS


def test_an_encoder_is_killed_only_after_its_dead_letters_had_their_time() -> None:
    grace = pod_specs(written())["encoder"]["terminationGracePeriodSeconds"]
    longest = SERVICES["encoder"].default("dead_letter_timeout_seconds")
    assert grace >= longest + RESTART_RESERVE_SECONDS


@pytest.mark.parametrize("name", pod_specs(written()))
def test_a_pod_is_restricted(name: str) -> None:
    spec = pod_specs(written())[name]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container(name)["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container(name)["resources"]
    assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", pod_specs(written()))
def test_a_services_name_cannot_become_a_setting_of_another(name: str) -> None:
    # Kubernetes would set RECIPE_..._PORT=tcp://... for a service called recipe-...
    assert pod_specs(written())[name]["enableServiceLinks"] is False


def test_the_canary_is_a_client_that_knows_its_way_and_shows_its_metrics() -> None:
    variables = environment("canary")
    for variable, key in (("RECIPE_KAFKA", "bootstrap-servers"), ("RECIPE_TOPIC", "topic")):
        assert variables[variable]["valueFrom"]["configMapKeyRef"] == {"name": "recipe-log", "key": key}
    port = SERVICES["generator"].default("port")
    assert variables["RECIPE_GENERATOR"]["value"] == f"dns:///generator:{port}"
    pod = of_kind(written(), "Deployment")["canary"]["spec"]["template"]["metadata"]
    assert pod["labels"]["recipe/client"] == "true"
    (shown,) = of_kind(written(), "Service")["canary"]["spec"]["ports"]
    assert shown["port"] == container("canary")["ports"][0]["containerPort"] == CANARY_PORT


def test_prometheus_may_ask_every_service_for_its_metrics() -> None:
    (rule,) = of_kind(written(), "NetworkPolicy")["metrics"]["spec"]["ingress"]
    ports = {SERVICES[name].default("metrics_port") for name in SERVICES} | {CANARY_PORT}
    assert {port["port"] for port in rule["ports"]} == ports


def secret_keys(name: str) -> set[str]:
    sources = [variable.get("valueFrom", {}) for variable in container(name)["env"]]
    return {source["secretKeyRef"]["key"] for source in sources if "secretKeyRef" in source}


def test_keys_are_references_and_the_retriever_has_only_the_one_that_reads() -> None:
    assert secret_keys("encoder") == {"api-key"}
    assert secret_keys("retriever") == {"read-only-api-key"}
    assert secret_keys("qdrant") == {"api-key", "read-only-api-key"}
    assert secret_keys("generator") == secret_keys("topics") == set()
    assert not of_kind(written(), "Secret")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_disruption_budget(name: str) -> None:
    budget = of_kind(written(), "PodDisruptionBudget")[name]["spec"]
    assert budget["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
    assert budget["maxUnavailable"] == 1


def test_there_are_never_more_encoders_than_partitions() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())
    log = dict(each.split("=", 1) for each in kustomization["configMapGenerator"][0]["literals"])
    scaled = of_kind(written(), "ScaledObject")["encoder"]["spec"]
    assert 1 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"] <= int(log["partitions"])
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "kafka"
    assert trigger["metadata"]["allowIdleConsumers"] == "false"
    for field in ("bootstrapServersFromEnv", "topicFromEnv", "consumerGroupFromEnv"):
        assert trigger["metadata"][field] in environment("encoder")


def test_only_keda_or_the_encoder_itself_says_how_many_encoders_there_are() -> None:
    assert "replicas" not in of_kind(rendered("production"), "Deployment")["encoder"]["spec"]
    assert of_kind(rendered("single-node"), "Deployment")["encoder"]["spec"]["replicas"] == 1


def callers(target: str, port: int) -> set[str]:
    """The names of the pods of this namespace, and "client", that the policies let reach a port of `target`."""
    allowed: set[str] = set()
    for policy in of_kind(written(), "NetworkPolicy").values():
        if target in names(policy["spec"]["podSelector"]):
            for rule in policy["spec"].get("ingress", []):
                if port in {each["port"] for each in rule["ports"]}:
                    allowed.update(*(names(peer.get("podSelector", {})) for peer in rule["from"]))
    return allowed


def names(selector: Manifest) -> set[str]:
    """The pods that a selector selects; all of them if it is empty."""
    labels = selector.get("matchLabels", {})
    if labels.get("recipe/client") == "true":
        return {"client"}
    if "app.kubernetes.io/name" in labels:
        return {labels["app.kubernetes.io/name"]}
    if expressions := selector.get("matchExpressions"):
        return set(expressions[0]["values"])
    return {*pod_specs(written()), "anything"}


def reached(source: str) -> set[str]:
    """The pods that the policies let `source` call, without the resolver of names and the log."""
    allowed: set[str] = set()
    for policy in of_kind(written(), "NetworkPolicy").values():
        if source in names(policy["spec"]["podSelector"]):
            for rule in policy["spec"].get("egress", []):
                peers = [peer["podSelector"] for peer in rule.get("to", []) if peer.keys() == {"podSelector"}]
                allowed.update(*map(names, peers))
    return allowed


def test_the_policies_let_calls_along_the_arrows_and_no_others() -> None:
    assert callers("qdrant", 6333) == callers("qdrant", 6334) == {"encoder", "retriever"}
    assert callers("retriever", 50051) == {"generator", "client"}
    assert callers("generator", 50052) == {"client"}
    assert reached("encoder") == reached("retriever") == {"qdrant"}
    assert reached("generator") == {"retriever"}
    assert reached("canary") == {"generator"}
    assert reached("qdrant") == reached("topics") == set()
    closed = of_kind(written(), "NetworkPolicy")["nothing-but-names"]["spec"]
    assert closed["podSelector"] == {}
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
