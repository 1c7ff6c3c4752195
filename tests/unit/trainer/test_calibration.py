"""The confidence of margins."""

import json
from pathlib import Path

import numpy as np
import pytest

from recipe_trainer.calibration import calibrate, fit_confidence
from tiny_models import make_prompt_words, make_recipe_model, make_text_encoder


def test_the_likeliest_confidence_is_found() -> None:
    random = np.random.default_rng(0)
    margins = random.uniform(-6, 6, 20_000)
    right = (random.uniform(size=margins.size) < 1 / (1 + np.exp(-(0.7 * margins - 1.0)))).astype(float)
    scale, offset = fit_confidence(margins, right, np.ones_like(margins))
    assert scale == pytest.approx(0.7, abs=0.05)
    assert offset == pytest.approx(-1.0, abs=0.1)


def test_weights_count_as_repetitions_do() -> None:
    margins, right = np.array([-1.0, 0.5, 1.0, 2.0, -2.0]), np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    twice = fit_confidence(np.append(margins, margins[1]), np.append(right, right[1]), np.ones(6))
    weighted = fit_confidence(margins, right, np.array([1.0, 2.0, 1.0, 1.0, 1.0]))
    assert weighted == pytest.approx(twice, abs=1e-3)


def test_a_model_is_calibrated_on_what_people_ask(tmp_path: Path) -> None:
    record = {"source": "mine", "statement": None, "subject": "", "aliases": [], "asks_wording": ["human"]}
    facts = [
        {
            **record,
            "prompt": f"Who runs {name}?",
            "answer": "Ann",
            "asks": [f"{name} boss"],
            "near_misses": [f"Why {name}?"],
        }
        for name in ("Acme", "Bolt", "Cobalt")
    ]
    (tmp_path / "facts.mine.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    model = make_recipe_model()
    calibrate(model, make_text_encoder(), make_prompt_words(), tmp_path)
    assert float(model.min_confidence) == 0.5
    assert np.isfinite(float(model.confidence_scale)) and np.isfinite(float(model.confidence_offset))
