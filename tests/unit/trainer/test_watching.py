from recipe_trainer.datasets import Edit
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.watching import Watch
from tiny_models import make_language_model, make_prompt_words, make_recipe_model, make_text_encoder

EDITS = [Edit(f"The mayor of {name} is", "Ann", name, (f"Who rules {name}?",)) for name in ("Aville", "Beton")]


def test_figures_are_shares_of_answer_tokens_by_form_of_question() -> None:
    llm = make_language_model()
    objective = Objective(make_recipe_model(), make_text_encoder(), llm, make_prompt_words(), TrainOptions())
    figures = Watch(EDITS, objective, llm).figures()
    assert list(figures) == ["dev own", "dev paraphrased"]
    assert all(0 <= value <= 100 for value in figures.values())
    unasked = Watch([Edit(edit.prompt, edit.answer) for edit in EDITS], objective, llm).figures()
    assert unasked["dev paraphrased"] == unasked["dev own"] == figures["dev own"]
