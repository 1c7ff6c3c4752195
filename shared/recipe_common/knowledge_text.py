"""The text that is encoded for a fact: what its publisher wrote, with a mark where the answer is known to begin."""

ANSWER_MARK = "→"  # one word to BERT-like tokenizers, and rare in questions and answers
_INSTEAD = "->"  # for a mark that a publisher wrote, which marks no answer


def knowledge_text(prompt: str, answer: str) -> str:
    """k = (prompt, answer) as one text; the mark tells where the answer begins."""
    return f"{statement_text(prompt)} {ANSWER_MARK} {statement_text(answer)}"


def statement_text(statement: str) -> str:
    """A statement whose answer is not known apart."""
    return statement.replace(ANSWER_MARK, _INSTEAD)


def split_at_mark(text: str) -> tuple[str, str | None]:
    """The statement without the mark, and the answer behind it; None in a text without one."""
    prompt, mark, answer = text.partition(ANSWER_MARK)
    return (f"{prompt.strip()} {answer.strip()}", answer.strip()) if mark else (text, None)
