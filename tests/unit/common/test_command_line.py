"""Commands end in one line when something is wrong, and print texts as they are."""

import subprocess
import sys

import pytest
from rich.table import Table

from recipe_common.command_line import result_console, run_command
from recipe_common.errors import NotFoundError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFoundError("fact_id: no\nsuch fact"), "error: fact_id: no such fact"),
        (FileNotFoundError(2, "No such file or directory", "x"), "error: [Errno 2] No such file or directory: 'x'"),
        (UnicodeEncodeError("ascii", "\u2713", 0, 1, "ordinal not in range"), "error: 'ascii' codec can't encode"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)


def test_an_argument_that_is_no_text_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", "ask", "\udcff"])
    with pytest.raises(SystemExit):
        run_command(lambda: print("\udcff".encode()))
    assert capsys.readouterr().err == "error: an argument is not valid UTF-8 text; correct it\n"


def test_texts_that_look_like_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("text", title="[/INST] :smile:")
    table.add_row("The [draft] plan [/INST]")
    result_console().print(table)
    printed = capsys.readouterr().out
    assert "[/INST] :smile:" in printed
    assert "The [draft] plan [/INST]" in printed


def test_the_command_line_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import recipe_client.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
