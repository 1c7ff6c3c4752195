"""Commands for people: whatever goes wrong is one line on standard error that names the fix."""

import sys
from collections.abc import Callable

from kafka.errors import KafkaError
from pydantic import ValidationError
from rich.console import Console

from recipe_common.errors import RecipeError

PARTLY_DONE = 3  # exit code: some of the input could not be used, and the output says which and why
NARROWEST_TABLE = 160  # columns when the output goes to a file or a pipe, which has no width of its own


def run_command(command: Callable[[], None]) -> None:
    """Run a command; an error ends the process with exit code 1."""
    try:
        command()
    except UnicodeError as error:
        # Python reads bytes that are no UTF-8 on the command line as characters that cannot be encoded.
        wrong = any("\udc80" <= character <= "\udcff" for argument in sys.argv for character in argument)
        _fail("an argument is not valid UTF-8 text; correct it" if wrong else str(error))
    except (RecipeError, ValidationError, KafkaError, OSError) as error:
        _fail(str(error) or type(error).__name__)


def result_console(*, stderr: bool = False) -> Console:
    """Standard output for results, or standard error for those of a command whose output is data.

    Their words stand as they are: a text may hold what looks like markup.
    """
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else NARROWEST_TABLE
    return Console(markup=False, emoji=False, highlight=False, width=width, stderr=stderr)


def _fail(reason: str) -> None:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)
