"""The training loop: fixed seeds, progress, resumable state, and a checkpoint at every save and at the end."""

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.checkpoint import Checkpoint, CheckpointConfig, load_tensors, save_checkpoint, trained_tensors
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, RecipeSizes
from recipe_model.pretrained import load_text_encoder
from recipe_model.prompt_words import PromptWords
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import Edit
from recipe_trainer.key_queue import KeyQueue
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.plots import plot_progress
from recipe_trainer.watching import Watch

REPORT_EVERY = 20
SAVE_EVERY = 100
MAX_TOKENS = 256  # of a text, if the encoder reads that many; of passages that are longer the rest is cut
STARTING_EDITS = 512  # on which the initial heads are measured


class Trainer:
    """One run in one folder: `state.safetensors` to resume from, `progress.jsonl` and `recipe.safetensors`.

    State and checkpoint are written every SAVE_EVERY steps: a checkpoint can be tried while the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        pool: EditPool,
        llm: LanguageModel,
        data: Mapping[str, Any],
        initial: Checkpoint | None = None,
        dev: Sequence[Edit] = (),
    ) -> None:
        self._folder = folder
        self._options = options
        self._pool = pool
        self._data = dict(data)
        if initial is not None:
            self._data["initial"] = {"model_version": initial.model_version, **initial.config.training}
        self._step = 0
        torch.manual_seed(options.seed)
        self._llm = llm
        encoder = load_text_encoder(options.encoder)
        sizes = RecipeSizes(
            encoder_hidden=encoder.identity.hidden_size,
            llm_hidden=self._llm.identity.hidden_size,
            representation=options.representation,
            prompt_tokens=options.prompt_tokens,
            sentinel_tokens=options.sentinel_tokens,
            spelling=options.spelling,
        )
        # For rows this short plain attention makes a whole step on a CPU about a quarter faster than the fused kernel.
        encoder.model.set_attn_implementation("eager")
        self._llm.model.set_attn_implementation("eager")
        self._identities = (encoder.identity, self._llm.identity)
        self._model = RecipeModel(encoder.model, sizes)
        trained = [value for value in encoder.model.parameters() if value.requires_grad]
        self._pretrained = [(value, value.detach().clone()) for value in trained]
        self._max_tokens = min(MAX_TOKENS, encoder.max_tokens)
        if initial is None:
            self._start(encoder.tokenizer)
        else:
            initial.require_encoder(encoder.identity)
            initial.require_llm(self._llm.identity)
            load_tensors(self._model, initial)
        self._model.sentinel_offset.fill_(options.sentinel_offset)
        self._model.sentinel_growth.fill_(options.sentinel_growth)
        self._model.sentinel_crowd.fill_(options.sentinel_crowd)
        self._queue = KeyQueue(options.queue, options.representation)
        prompt_words = PromptWords(llm.words(), llm.tokenizer, options.prompt_tokens)
        self._objective = Objective(
            self._model,
            encoder.tokenizer,
            self._llm,
            prompt_words=prompt_words,
            pool=pool,
            queue=self._queue,
            max_tokens=self._max_tokens,
            options=options,
        )
        self._watch = Watch(dev, self._model, llm, self._objective.features, prompt_words) if dev else None
        self._optimizer = self._build_optimizer()
        folder.mkdir(parents=True, exist_ok=True)
        self._remember_options()
        if self._state_file.exists():
            self._restore()

    def run(self) -> str:
        """Train to the last step, then write the checkpoint; returns its model version."""
        self._model.train()
        self._model.encoder.train(self._options.dropout)
        since, steps = time.monotonic(), 0
        seen: dict[str, list[float]] = {}
        if self._step == 0:
            self._objective.fill_queue(random.Random(self._options.seed))  # noqa: S311 (no secret)
        while self._step < self._options.steps:
            for name, value in self._train_step().items():
                seen.setdefault(name, []).append(value)
            steps += 1
            if self._step % SAVE_EVERY == 0:
                self._save()
                self._write_checkpoint()
            if self._step % REPORT_EVERY == 0:
                means = {name: sum(values) / len(values) for name, values in seen.items()}
                self._report(means, (time.monotonic() - since) / steps, self._dev_figures())
                since, steps, seen = time.monotonic(), 0, {}
        if self._step % SAVE_EVERY != 0:
            self._save()
        return self._write_checkpoint()

    def _train_step(self) -> dict[str, float]:
        """One optimiser step; a draw and a dropout that depend on seed and step alone."""
        random_ = random.Random(f"{self._options.seed}/{self._step}")  # noqa: S311 (no secret)
        torch.manual_seed(random_.getrandbits(63))
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        batch = self._pool.draw(random_, self._options.mixture)
        losses = self._objective.losses(batch, random_, with_llm=self._step % self._options.llm_every == 0)
        self._optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._parameters().values()), self._options.gradient_norm)
        self._optimizer.step()
        self._pull_to_pretrained()
        self._step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _pull_to_pretrained(self) -> None:
        """Move the encoder's weights a little back to where they came from (L2-SP, arXiv 1802.01483).

        What pre-training knows of names that these data lack, other names of a subject above all, is else forgotten.
        """
        share = self._options.encoder_pull * self._options.encoder_learning_rate * self._rate()
        for value, start in self._pretrained:
            value.lerp_(start, share)

    def _rate(self) -> float:
        """Linear warm-up, then a cosine down to zero at the last step; between 0 and 1."""
        warmup = self._options.warmup_steps
        if self._step < warmup:
            return (self._step + 1) / warmup
        done = (self._step - warmup) / max(1, self._options.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * done))

    def _parameters(self) -> dict[str, Tensor]:
        return {name: value for name, value in trained_tensors(self._model).items() if value.requires_grad}

    def _build_optimizer(self) -> torch.optim.AdamW:
        options = self._options
        peaks = {
            "encoder": options.encoder_learning_rate,
            "prompt_head": options.prompt_learning_rate,
            "prompt_head.common": options.common_learning_rate,
            "spelling": options.spelling_learning_rate,
        }
        groups = [
            {"params": [value], "peak": peaks.get(name, peaks.get(name.split(".")[0], options.heads_learning_rate))}
            for name, value in self._parameters().items()
        ]
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=options.weight_decay)

    @torch.no_grad()
    def _start(self, tokenizer: Any) -> None:  # noqa: ANN401 (transformers' tokenizer)
        """Initial heads, from what statements look like to the encoder and the scale of the LLM's words."""
        statements = [edit.knowledge for edit in self._pool.edits[:STARTING_EDITS]]
        if self._model.spelling is not None:
            self._model.spelling.start(edit.prompt for edit in self._pool.edits)
        self._model.start_heads(self._model.features(tokenize(tokenizer, statements, self._max_tokens)))
        self._model.start_prompts(float(self._llm.words().square().mean().sqrt()))

    def _dev_figures(self) -> dict[str, float]:
        """Figures on data never trained on, at every save."""
        return self._watch.figures() if self._watch and self._step % SAVE_EVERY == 0 else {}

    def _report(self, losses: Mapping[str, float], seconds_per_step: float, dev: Mapping[str, float]) -> None:
        remaining = (self._options.steps - self._step) * seconds_per_step / 60
        parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(
            f"step {self._step}/{self._options.steps}  {parts}  lr x{self._rate():.2f}  "
            f"{seconds_per_step:.2f} s/step  {self._options.contrast_edits / seconds_per_step:.0f} edits/s  "
            f"{remaining:.0f} min left",
            flush=True,
        )
        if dev:
            print("  " + "  ".join(f"{name} {value:.1f} %" for name, value in dev.items()), flush=True)
        progress = self._folder / "progress.jsonl"
        with progress.open("a") as file:
            line = {"step": self._step, **losses, "seconds_per_step": seconds_per_step, "dev": dev}
            file.write(json.dumps(line) + "\n")
        lines = [json.loads(line) for line in progress.read_text().splitlines()]
        plot_progress(lines, self._folder / "progress.png")

    @property
    def _state_file(self) -> Path:
        return self._folder / "state.safetensors"

    @property
    def _checkpoint_file(self) -> Path:
        return self._folder / "recipe.safetensors"

    def _remember_options(self) -> None:
        """A folder belongs to one set of options: resuming with others would be neither run.

        Only the number of steps may change, which moves the end of the learning rate's schedule.
        """
        file = self._folder / "options.json"
        mine = {"options": self._options.model_dump(), "data": dict(self._data)}
        if self._state_file.exists() or self._checkpoint_file.exists():
            theirs = json.loads(file.read_text())
            theirs["options"]["steps"] = self._options.steps
            if differing := _differences(theirs, mine):
                holds = f"{self._folder} holds a run with other options ({differing}); choose another folder"
                raise InvalidArgumentError([FieldViolation("out", holds)])
        file.write_text(json.dumps(mine, indent=1))

    def _save(self) -> None:
        self._objective.settle_keys(random.Random(f"{self._options.seed}/{self._step}"))  # noqa: S311 (no secret)
        state = {f"model.{name}": value.detach() for name, value in trained_tensors(self._model).items()}
        names = {id(value): name for name, value in self._parameters().items()}
        for parameter, slots in self._optimizer.state.items():
            state |= {f"optimizer.{slot}.{names[id(parameter)]}": value for slot, value in slots.items()}
        state |= {f"queue.{name}": value for name, value in self._queue.state().items()}
        state["step"] = torch.tensor(self._step)
        scratch = self._state_file.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in state.items()}, scratch)
        scratch.replace(self._state_file)

    def _restore(self) -> None:
        state = load_file(self._state_file)
        if missing := sorted(trained_tensors(self._model).keys() - {name.removeprefix("model.") for name in state}):
            holds = (
                f"{self._folder} holds a run of another release, without {', '.join(missing)}; choose another folder"
            )
            raise InvalidArgumentError([FieldViolation("out", holds)])
        self._step = int(state["step"])
        with torch.no_grad():
            for name, value in trained_tensors(self._model).items():
                value.copy_(state[f"model.{name}"])
        for name, parameter in self._parameters().items():
            slots = ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.step.{name}" in state:
                self._optimizer.state[parameter] = {slot: state[f"optimizer.{slot}.{name}"] for slot in slots}
        self._queue.restore({name: state[f"queue.{name}"] for name in ("keys", "indices", "next")})
        self._forget_progress_after(self._step)
        print(f"resumed at step {self._step} from {self._state_file}", flush=True)

    def _forget_progress_after(self, step: int) -> None:
        """Steps that are taken again must not stand in the report twice."""
        progress = self._folder / "progress.jsonl"
        lines = progress.read_text().splitlines() if progress.exists() else []
        progress.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))

    def _write_checkpoint(self) -> str:
        encoder, llm = self._identities
        training = {**self._options.model_dump(), "steps_taken": self._step, "data": dict(self._data)}
        config = CheckpointConfig(encoder, llm, self._model.sizes, training)
        return save_checkpoint(self._checkpoint_file, self._model, config)


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Names of the options that two runs differ in, with the value of the first."""
    return ", ".join(
        f"{name} was {theirs[group].get(name)!r}"
        for group in mine
        for name in sorted(theirs[group].keys() | mine[group].keys())
        if theirs[group].get(name) != mine[group].get(name)
    )
