"""A training run: two parts one after the other, each resumable from the run's folder, and the checkpoint they make."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.checkpoint import Checkpoint, CheckpointConfig, save_checkpoint
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, RecipeSizes
from recipe_model.pretrained import TextEncoder, load_text_encoder
from recipe_model.prompt_words import PromptWords
from recipe_trainer.corpus import read_corpus
from recipe_trainer.material import Material
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.parts import PARTS, PROMPTS, VERIFIER, read_part, source_of, take_part
from recipe_trainer.prompt_training import PromptTraining, start_prompts
from recipe_trainer.verifier_training import train_verifier
from recipe_trainer.watching import Watch


class Run:
    """One run in one folder: `options.json`, a state for each part, `progress.jsonl` and `recipe.safetensors`.

    The checkpoint is rewritten whenever a part has saved its state, so that it can be tried while the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        material: Material,
        llm: LanguageModel,
        start: Checkpoint | None = None,
        *,
        go_on: bool = False,
    ) -> None:
        """`start` has what is neither trained here nor was; with `go_on` what is trained begins with it, too."""
        self._folder = folder
        self._start = start
        self._go_on = go_on
        self._taken: dict[str, str] = {}  # of `start`, as parts with its model version
        self._options = options
        self._material = material
        self._llm = llm
        torch.manual_seed(options.seed)
        self._encoder = load_text_encoder(options.encoder)
        # For rows this short plain attention makes a whole step on a CPU about a quarter faster than the fused kernel.
        for model in (self._encoder.model, llm.model):
            model.set_attn_implementation("eager")
        self._model = _new_model(options, self._encoder, llm)
        folder.mkdir(parents=True, exist_ok=True)
        self._remember_options()

    def train(self, parts: Sequence[str] = PARTS) -> str:
        """Train these parts, or read what was trained of them; returns the checkpoint's model version.

        A part that is not among them is read from its state in the folder, or taken from the checkpoint to start from.
        Raises InvalidArgumentError if neither has it, and CheckpointError if that checkpoint is for other models.
        """
        for part in PARTS:
            if part not in parts:
                self._restore(part)
        if VERIFIER in parts:
            self._train_verifier()
            self._write_checkpoint()
        if PROMPTS in parts:
            self._train_prompts()
        return self._write_checkpoint()

    def _restore(self, part: str) -> None:
        source = source_of(part, self._folder, self._start)
        if isinstance(source, Path):
            read_part(part, self._model, source)
            if part == VERIFIER:
                self._calibrate()  # which is no part of the state
            return
        self._take(part, source)

    def _take(self, part: str, start: Checkpoint) -> None:
        start.require_encoder(self._encoder.identity)
        if part == PROMPTS:
            start.require_llm(self._llm.identity)
        take_part(part, self._model, start)
        self._taken[part] = start.model_version

    def _train_prompts(self) -> None:
        pool = self._material.pool(self._options, self._llm.whole_words())
        objective = Objective(self._model, self._encoder, self._llm, self._words(), self._options)
        if self._start is not None and self._go_on:
            self._take(PROMPTS, self._start)
        else:
            start_prompts(self._model, objective, pool, self._llm, self._options.seed)
        watched = self._material.watched
        watch = Watch(watched, objective, self._llm) if watched else None
        PromptTraining(self._folder, self._model, objective, pool, self._options, watch).run(self._write_checkpoint)

    def _train_verifier(self) -> None:
        material, seed = self._material, self._options.seed
        corpus = read_corpus(
            material.edits,
            material.natural,
            material.texts,
            seed,
            families=material.families,
            held_out=material.held_out,
        )
        if self._start is not None and self._go_on:
            self._take(VERIFIER, self._start)
        train_verifier(self._model, self._encoder, self._options, corpus, self._folder)
        self._calibrate()

    def _calibrate(self) -> None:
        if self._material.dev is not None:
            from recipe_trainer.calibration import calibrate  # noqa: PLC0415 (the other part needs none)

            calibrate(self._model, self._encoder, self._words(), self._material.dev)

    def _words(self) -> PromptWords:
        return PromptWords(self._llm.words(), self._llm.tokenizer, self._options.prompt_tokens)

    def _remember_options(self) -> None:
        """A folder belongs to one set of options: resuming with others would be neither run.

        Only numbers of steps may change, which moves the end of the learning rate's schedule.
        """
        file = self._folder / "options.json"
        mine = {"options": self._options.model_dump(), "data": dict(self._material.record)}
        if file.exists() and (differing := _differences(json.loads(file.read_text()), mine)):
            holds = f"{self._folder} holds a run with other options ({differing}); choose another folder"
            raise InvalidArgumentError([FieldViolation("out", holds)])
        file.write_text(json.dumps(mine, indent=1))

    def _write_checkpoint(self) -> str:
        training = {**self._options.model_dump(), "data": dict(self._material.record)}
        if self._taken:
            training["start"] = dict(self._taken)
        config = CheckpointConfig(self._encoder.identity, self._llm.identity, self._model.sizes, training)
        return save_checkpoint(self._folder / "recipe.safetensors", self._model, config)


def _new_model(options: TrainOptions, encoder: TextEncoder, llm: LanguageModel) -> RecipeModel:
    sizes = RecipeSizes(
        encoder_hidden=encoder.identity.hidden_size,
        llm_hidden=llm.identity.hidden_size,
        representation=options.representation,
        prompt_tokens=options.prompt_tokens,
        sentinel_tokens=options.sentinel_tokens,
    )
    return RecipeModel(encoder.model, sizes)


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Names of the options that two runs differ in, with the value of the first."""
    return ", ".join(
        f"{name} was {theirs[group].get(name)!r}"
        for group in mine
        for name in sorted(theirs[group].keys() | mine[group].keys())
        if not name.startswith("steps_") and theirs[group].get(name) != mine[group].get(name)
    )
