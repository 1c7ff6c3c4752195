"""What tests read of the deployment: the Compose file as a user gets it, and the services' own settings."""

import inspect
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic_settings import BaseSettings

from recipe_client.canary import canary
from recipe_common.tracing import ENDPOINTS
from recipe_encoder.settings import ENV_PREFIX as ENCODER_PREFIX
from recipe_encoder.settings import EncoderSettings
from recipe_generator.settings import ENV_PREFIX as GENERATOR_PREFIX
from recipe_generator.settings import GeneratorSettings
from recipe_retriever.settings import ENV_PREFIX as RETRIEVER_PREFIX
from recipe_retriever.settings import RetrieverSettings

REPOSITORY: Final = Path(__file__).parents[1]
COMPOSE_FILE: Final = REPOSITORY / "docker-compose.yml"
CANARY_PORT: Final = inspect.signature(canary).parameters["metrics_port"].default

# Variables of the process that no settings class reads, but torch, the loader of models, Hugging Face's hub, tracing.
PROCESS_VARIABLES: Final = {"OMP_NUM_THREADS", "RECIPE_CACHE_DIR", "HF_HUB_OFFLINE", "HF_HOME", ENDPOINTS[0]}
# Of the generator with vLLM beyond those of the other.
VLLM_VARIABLES: Final = {"RECIPE_GENERATOR_ENGINE", "RECIPE_GENERATOR_KV_CACHE_GIB"}

_VARIABLE: Final = re.compile(r"(?<!\$)\$\{(\w+)\}")


@dataclass(frozen=True)
class Service:
    """One of the product's services: what it reads from its environment and where it listens by default."""

    name: str
    prefix: str
    settings: type[BaseSettings]

    @property
    def variables(self) -> set[str]:
        """The names of the variables that it reads."""
        return {f"{self.prefix}{field}".upper() for field in self.settings.model_fields}

    def default(self, field: str) -> Any:
        """The default of a setting."""
        return self.settings.model_fields[field].default

    @property
    def ports(self) -> set[int]:
        """The ports that it listens on."""
        return {self.default(field) for field in ("port", "metrics_port") if field in self.settings.model_fields}


SERVICES: Final = {
    service.name: service
    for service in (
        Service("encoder", ENCODER_PREFIX, EncoderSettings),
        Service("retriever", RETRIEVER_PREFIX, RetrieverSettings),
        Service("generator", GENERATOR_PREFIX, GeneratorSettings),
    )
}


def dot_env() -> dict[str, str]:
    """The variables of `.env`."""
    lines = (REPOSITORY / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose_text() -> str:
    """`docker-compose.yml` with the variables of `.env` put in; one that is not there is a KeyError."""
    variables = dot_env()
    return _VARIABLE.sub(lambda match: variables[match[1]], COMPOSE_FILE.read_text())


def compose_services() -> dict[str, Any]:
    """The services of the Compose file."""
    services: dict[str, Any] = yaml.safe_load(compose_text())["services"]
    return services


def compose_environment(service: str) -> dict[str, str]:
    """The environment that Compose gives a service, as the process sees it."""
    return {name: str(value).replace("$$", "$") for name, value in compose_services()[service]["environment"].items()}


def seconds(duration: str) -> int:
    """A duration of Compose in whole seconds, for example "60s"."""
    assert duration.endswith("s"), f"{duration} is not in seconds"
    return int(duration.removesuffix("s"))


def constraint(package: str) -> str:
    """The pinned version of a package."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0] == package)


def dockerfile(service: str) -> Path:
    """A service's Dockerfile."""
    return REPOSITORY / f"deploy/docker/{service}.Dockerfile"


def stages(service: str) -> list[str]:
    """The text of each stage of a service's Dockerfile, without comments and with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile(service).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]


def base_environment() -> dict[str, str]:
    """This process's environment without what configures the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RECIPE_", "KAFKA_"))}
