"""What all settings classes share."""

from typing import Any, TypeVar

from pydantic_settings import BaseSettings

Settings = TypeVar("Settings", bound=BaseSettings)


def without_environment(settings: type[Settings]) -> type[Settings]:
    """The same settings, from arguments alone: a stack in one process must not obey the variables of its parts."""

    class FromArguments(settings):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(cls, _: Any, init_settings: Any, *__: Any, **___: Any) -> tuple[Any, ...]:  # noqa: ANN401
            return (init_settings,)

    return FromArguments
