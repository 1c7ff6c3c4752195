"""`python -m recipe_trainer`: the trainer's commands without the rest of the `recipe` command."""

import typer

from recipe_common.command_line import run_command
from recipe_trainer.commands import ablate, eval_app, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(train)
app.command()(ablate)
app.add_typer(eval_app, name="eval")

if __name__ == "__main__":
    run_command(app)
