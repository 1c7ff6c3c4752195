"""The process of a service: what keeps it from starting or going on is one line on standard error."""

import sys
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaError
from pydantic import ValidationError

from recipe_common.errors import RecipeError
from recipe_common.json_logging import configure_logging
from recipe_common.tracing import configure_tracing


def run_service(name: str, env_prefix: str, run: Callable[[], None]) -> int:
    """Run the service `name` until it ends; returns the exit code.

    `run` reads its settings from variables that start with `env_prefix`; wrong ones are named, their values are not
    shown, because one of them may be a secret.
    """
    configure_logging(name)
    try:
        configure_tracing(name)
        run()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        reason = "; ".join(_setting(detail, env_prefix) for detail in details)
    except (RecipeError, KafkaError) as error:
        reason = str(error) or type(error).__name__
    else:
        return 0
    print(f"recipe_{name}: {' '.join(reason.split())}", file=sys.stderr)
    return 1


def _setting(detail: Any, env_prefix: str) -> str:  # noqa: ANN401 (pydantic's ErrorDetails)
    message = str(detail["msg"]).removeprefix("Value error, ")
    variable = "_".join(str(step) for step in detail["loc"]).upper()
    return f"{env_prefix}{variable}: {message}" if variable else message
