"""A fact as text in front of its question, as it is done without this service: in-context editing.

With demonstrations it is IKE (arXiv 2305.12740), whose retained facts are left out: what an edit must not touch is for
retrieval to decide here.
"""

from collections.abc import Sequence

from recipe_trainer.datasets import Edit

DEMONSTRATIONS = 16


def stated(statement: str) -> str:
    """The fact alone, on a line of its own."""
    return f"{statement}.\n"


def demonstrated(statement: str, examples: Sequence[Edit]) -> str:
    """The fact behind other ones, each followed by a question and its new answer.

    The question is the fact's own and, for every second one that has it, a paraphrase (IKE's copy and update).
    """
    shown = []
    for place, edit in enumerate(examples):
        question = edit.paraphrases[0] if place % 2 and edit.paraphrases else edit.prompt
        shown.append(f"New fact: {edit.statement}.\n{question} {edit.answer}.\n\n")
    return f"{''.join(shown)}New fact: {statement}.\n"
