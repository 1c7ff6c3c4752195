"""The Compose file: structure, and agreement with the services that it starts."""

import http.server
import os
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployment import (
    CANARY_PORT,
    COMPOSE_FILE,
    PROCESS_VARIABLES,
    REPOSITORY,
    SERVICES,
    VLLM_VARIABLES,
    compose_environment,
    compose_services,
    compose_text,
    constraint,
    dot_env,
    seconds,
)
from recipe_common.tracing import ENDPOINTS

ALL = compose_services()
LASTING = [name for name, service in ALL.items() if service["restart"] == "unless-stopped"]


def test_the_compose_parser_itself_accepts_the_file(tmp_path: Path) -> None:
    parser = shutil.which("compose-config")
    if parser is None:
        pytest.skip("compose-config, the Compose parser, is not on PATH")
    copy = tmp_path / "docker-compose.yml"
    copy.write_text(compose_text())
    done = subprocess.run([parser, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    resolved = yaml.safe_load(done.stdout)["services"]
    assert resolved.keys() == ALL.keys()
    for service in SERVICES:
        as_text = {name: str(value) for name, value in resolved[service]["environment"].items()}
        assert as_text == compose_environment(service)


def test_every_variable_of_the_file_is_in_dot_env_and_none_is_there_for_nothing() -> None:
    used = set(re.findall(r"\$\{(\w+)\}", COMPOSE_FILE.read_text()))
    assert used == dot_env().keys() - {"COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reads_every_variable_that_it_is_given(name: str) -> None:
    given = compose_environment(name)
    assert given.keys() <= SERVICES[name].variables | PROCESS_VARIABLES


@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_accept_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES[name]
    for variable in [each for each in os.environ if each.startswith(service.prefix)]:
        monkeypatch.delenv(variable)
    for variable, value in compose_environment(name).items():
        monkeypatch.setenv(variable, value)
    settings = service.settings()
    for field in {"host", "metrics_host"} & type(settings).model_fields.keys():
        assert getattr(settings, field) == "0.0.0.0", f"{name} must listen beyond its own container"


def test_one_of_the_generators_runs_and_is_called_the_same() -> None:
    plain, vllm = ALL["generator"], ALL["generator-vllm"]
    assert (plain["profiles"], vllm["profiles"]) == (["cpu"], ["gpu"])
    assert dot_env()["COMPOSE_PROFILES"] == "cpu"
    assert [name for name, service in ALL.items() if "profiles" in service] == ["generator", "generator-vllm"]
    assert vllm["networks"] == {network: {"aliases": ["generator"]} for network in plain["networks"]}
    for same in ("ports", "depends_on", "stop_grace_period", "read_only", "restart"):
        assert vllm[same] == plain[same]
    # Compose takes a dependency that no profile starts for a mistake, unless it is told otherwise.
    needs = [service.get("depends_on", {}) for service in ALL.values()]
    assert {name: each[name]["required"] for each in needs for name in each if "generator" in name} == {
        "generator": False,
        "generator-vllm": False,
    }


def test_the_generator_with_vllm_differs_in_its_engine_and_has_a_gpu() -> None:
    plain, vllm = compose_environment("generator"), compose_environment("generator-vllm")
    assert vllm.keys() - plain.keys() == VLLM_VARIABLES
    assert plain == {name: vllm[name] for name in plain}
    assert vllm["RECIPE_GENERATOR_ENGINE"] == "vllm"
    (device,) = ALL["generator-vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_traces_are_off_until_a_collector_is_named() -> None:
    assert dot_env()[ENDPOINTS[0]] == ""
    for name in (*SERVICES, "generator-vllm", "canary"):
        assert compose_environment(name)[ENDPOINTS[0]] == dot_env()[ENDPOINTS[0]]


def test_prometheus_keeps_exemplars() -> None:
    assert "--enable-feature=exemplar-storage" in ALL["prometheus"]["command"]


def test_only_the_encoder_may_write_to_the_store() -> None:
    keys = dot_env()
    assert keys["QDRANT_API_KEY"] != keys["QDRANT_READ_ONLY_API_KEY"]
    assert compose_environment("encoder")["RECIPE_ENCODER_QDRANT_API_KEY"] == keys["QDRANT_API_KEY"]
    assert compose_environment("retriever")["RECIPE_RETRIEVER_QDRANT_API_KEY"] == keys["QDRANT_READ_ONLY_API_KEY"]
    store = compose_environment("qdrant")
    assert store["QDRANT__SERVICE__API_KEY"] == keys["QDRANT_API_KEY"]
    assert store["QDRANT__SERVICE__READ_ONLY_API_KEY"] == keys["QDRANT_READ_ONLY_API_KEY"]


def test_only_encoder_and_retriever_reach_the_store_and_the_host_does_not() -> None:
    assert [name for name, service in ALL.items() if "store" in service["networks"]] == [
        "qdrant",
        "encoder",
        "retriever",
    ]
    assert ALL["qdrant"]["networks"] == ["store"]
    assert "ports" not in ALL["qdrant"]


@pytest.mark.parametrize("name", ALL)
def test_a_container_is_neither_root_nor_able_to_write_to_its_image(name: str) -> None:
    service = ALL[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if service["image"].startswith("recipe-"):
        assert "user" not in service, "its Dockerfile says who it runs as"
    else:
        assert int(service["user"].partition(":")[0]) > 0


@pytest.mark.parametrize("name", ALL)
def test_a_container_has_limits_and_a_pinned_image(name: str) -> None:
    limits = ALL[name]["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory"}
    assert re.search(r":v?\d+\.\d+\.\d+(-unprivileged)?$", ALL[name]["image"])


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_service_has_a_health_check(name: str) -> None:
    assert ALL[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", ALL)
def test_a_service_waits_until_what_it_depends_on_is_of_use(name: str) -> None:
    for other, dependency in ALL[name].get("depends_on", {}).items():
        expected = "service_healthy" if other in LASTING else "service_completed_successfully"
        assert dependency["condition"] == expected


@pytest.mark.parametrize("name", ALL)
def test_ports_are_published_on_the_loopback_interface_only(name: str) -> None:
    for port in ALL[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def published(name: str) -> set[int]:
    return {int(port.rpartition(":")[2]) for port in ALL[name].get("ports", [])}


def test_services_are_addressed_where_they_listen() -> None:
    retriever, generator = SERVICES["retriever"], SERVICES["generator"]
    assert compose_environment("generator")["RECIPE_GENERATOR_RETRIEVER"] == f"retriever:{retriever.default('port')}"
    assert published("retriever") == {retriever.default("port")}
    assert published("generator") == {generator.default("port")}
    for service in (retriever, generator):
        assert ALL[service.name]["healthcheck"]["test"][-1] == f"127.0.0.1:{service.default('port')}"
    ready = f"http://127.0.0.1:{SERVICES['encoder'].default('metrics_port')}/ready"
    assert ready in ALL["encoder"]["healthcheck"]["test"][-1]


def test_the_broker_is_addressed_where_it_listens() -> None:
    advertised = dict(
        address.split("://") for address in compose_environment("kafka")["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert compose_environment("encoder")["RECIPE_ENCODER_KAFKA_BOOTSTRAP_SERVERS"] == advertised["INSIDE"]
    assert compose_environment("topics")["RECIPE_KAFKA"] == advertised["INSIDE"]
    assert advertised["HOST"] == f"127.0.0.1:{dot_env()['KAFKA_PORT']}"
    assert compose_environment("topics")["RECIPE_TOPIC"] == SERVICES["encoder"].default("topic")


@pytest.mark.parametrize("name", ["retriever", "generator"])
def test_a_container_is_killed_only_after_its_drain(name: str) -> None:
    drain = compose_environment(name).get(
        f"{SERVICES[name].prefix}DRAIN_SECONDS", SERVICES[name].default("drain_seconds")
    )
    assert seconds(ALL[name]["stop_grace_period"]) > float(drain) + 5


def test_the_generator_drains_as_long_as_a_request_may_take() -> None:
    drain = float(compose_environment("generator")["RECIPE_GENERATOR_DRAIN_SECONDS"])
    assert drain >= SERVICES["generator"].default("request_seconds")


def test_the_encoder_is_killed_only_after_its_dead_letters_had_their_time() -> None:
    longest = SERVICES["encoder"].default("dead_letter_timeout_seconds")
    assert seconds(ALL["encoder"]["stop_grace_period"]) > longest + 5


def test_the_store_is_of_the_clients_minor_version() -> None:
    client = constraint("qdrant-client").split(".")[:2]
    assert dot_env()["QDRANT_VERSION"].split(".")[:2] == client


def test_the_images_carry_the_projects_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert dot_env()["RECIPE_VERSION"] == project["version"]


def test_every_mounted_file_is_in_the_repository() -> None:
    mounts = [mount for service in ALL.values() for mount in service.get("volumes", []) if mount.startswith("./")]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (REPOSITORY / source).exists()
        assert mode == "ro"


def test_prometheus_scrapes_every_service_where_it_serves_metrics() -> None:
    config = yaml.safe_load((REPOSITORY / "deploy/monitoring/prometheus/prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    for name, service in SERVICES.items():
        assert targets[name] == [f"{name}:{service.default('metrics_port')}"]
        assert set(ALL[name]["networks"]) & set(ALL["prometheus"]["networks"])


def test_the_canary_knows_its_way_and_is_scraped() -> None:
    environment, encoder = compose_environment("canary"), compose_environment("encoder")
    assert environment["RECIPE_KAFKA"] == encoder["RECIPE_ENCODER_KAFKA_BOOTSTRAP_SERVERS"]
    assert environment["RECIPE_TOPIC"] == SERVICES["encoder"].default("topic")
    assert environment["RECIPE_GENERATOR"] == f"generator:{SERVICES['generator'].default('port')}"
    for other in ("kafka", "generator", "prometheus"):
        assert set(ALL["canary"]["networks"]) & set(ALL[other]["networks"])
    config = yaml.safe_load((REPOSITORY / "deploy/monitoring/prometheus/prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets["canary"] == [f"canary:{CANARY_PORT}"]
    assert f"127.0.0.1:{CANARY_PORT}/" in ALL["canary"]["healthcheck"]["test"][-1]


def test_grafana_finds_prometheus_and_the_dashboards_where_they_are() -> None:
    provisioning = REPOSITORY / "deploy/monitoring/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((provisioning / "dashboards/recipe.yml").read_text())["providers"][0]
    assert f"./deploy/monitoring/grafana/dashboards:{provider['options']['path']}:ro" in ALL["grafana"]["volumes"]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """An HTTP server that answers everything with `status`; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path in {"/readyz", "/ready"} else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check_exit_code(service: str, written_port: int, port: int) -> int:
    """The exit code of a service's health check that asks `port` instead."""
    command = [part.replace("$$", "$") for part in ALL[service]["healthcheck"]["test"][1:]]
    here = [part.replace(f"127.0.0.1:{written_port}", f"127.0.0.1:{port}") for part in command]
    here = [part.replace(f"127.0.0.1/{written_port}", f"127.0.0.1/{port}") for part in here]
    assert here != command
    return subprocess.run(here, capture_output=True, timeout=30, check=False).returncode


@pytest.mark.parametrize(("service", "written_port"), [("qdrant", 6333), ("encoder", 9101)])
def test_an_http_health_check_tells_ready_from_not_ready(service: str, written_port: int) -> None:
    with answering(200) as port:
        assert check_exit_code(service, written_port, port) == 0
    with answering(503) as port:
        assert check_exit_code(service, written_port, port) == 1
    assert check_exit_code(service, written_port, port) == 1


def test_the_brokers_health_check_tells_whether_its_listener_is_open() -> None:
    with answering(200) as port:
        assert check_exit_code("kafka", 19092, port) == 0
    assert check_exit_code("kafka", 19092, port) == 1
