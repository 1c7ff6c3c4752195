"""From a micro-batch of Kafka records to what the store is to write and what goes to the dead letters."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from recipe_common.errors import InvalidArgumentError
from recipe_common.knowledge_text import ALIAS_MARK
from recipe_encoder.dead_letters import DeadLetter
from recipe_encoder.events import InvalidEventError, KafkaRecord, ParsedUpdate, parse_record
from recipe_encoder.metrics import EncoderMetrics
from recipe_model.encoded import EncodedFact
from recipe_store import Fact, FactWrite
from recipe_store.ordering import fact_name, mixed_facts, newest_writes

logger = logging.getLogger(__name__)

UNREADABLE_SHARE: Final = 0.5  # of tokens that the encoder does not know, above which a fact counts as unreadable

ParsedRecord = tuple[KafkaRecord, ParsedUpdate]


class FactEncoder(Protocol):
    """The model: texts of facts in, what is stored of them out."""

    def encode(self, texts: Sequence[str]) -> list[EncodedFact]:
        """Vector, token states and prompt of each text, as `recipe_common.knowledge_text` makes them.

        Raises InvalidArgumentError if one of them can never be encoded, for example because it is too long.
        """
        ...

    def unknown_share(self, text: str) -> float:
        """The share of a text's tokens that the model does not know, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, ready for its effects.

    `facts` is what its good records say, `writes` what the store needs of that; both are in the order of the log.
    """

    facts: list[Fact]
    writes: list[FactWrite]
    refused: list[DeadLetter]

    @property
    def superseded(self) -> list[Fact]:
        """The facts that are no write, because a write of this batch replaces them."""
        written = {write.fact.position for write in self.writes}
        return [fact for fact in self.facts if fact.position not in written]


class BatchBuilder:
    """Parses, folds and encodes micro-batches."""

    def __init__(self, encoder: FactEncoder, metrics: EncoderMetrics) -> None:
        self._encoder = encoder
        self._metrics = metrics

    def build(self, records: Sequence[KafkaRecord]) -> Batch:
        """Every record ends up in exactly one place: among the facts or among the refused."""
        self._metrics.batch_size.observe(len(records))
        refused: list[DeadLetter] = []
        parsed = self._parse(records, refused)
        batch = self._encode(parsed, refused)
        for letter in refused:
            place = f"{letter.record.topic}/{letter.record.partition}/{letter.record.offset}"
            logger.warning("%s goes to the dead letters: %s", place, letter.error)
        return batch

    def _parse(self, records: Sequence[KafkaRecord], refused: list[DeadLetter]) -> list[ParsedRecord]:
        parsed: list[ParsedRecord] = []
        with self._metrics.time_stage("parse"):
            for record in records:
                try:
                    parsed.append((record, parse_record(record)))
                except InvalidEventError as error:
                    refused.append(DeadLetter(record, error))
        return parsed

    def _encode(self, parsed: Sequence[ParsedRecord], refused: list[DeadLetter]) -> Batch:
        updates = [update for _, update in parsed]
        facts = [update.fact for update in updates]
        newest = self._fold(updates)
        if all(update.fact.retracted for update in newest):
            return Batch(facts, [_retraction(update.fact) for update in newest], refused)
        with self._metrics.time_stage("encode"):
            try:
                return Batch(facts, self._with_vectors(newest), refused)
            except InvalidArgumentError:
                writes = self._encode_singly(parsed, refused)
                return Batch([write.fact for write in writes], writes, refused)

    def _fold(self, updates: Sequence[ParsedUpdate]) -> list[ParsedUpdate]:
        """Without what others of the batch supersede in any case, which needs no vectors; in the order of the log.

        Of a fact with and without revisions everything is left to the store: the last record may take over the
        revision of one before, but not if that turns out to be one that cannot be encoded.
        """
        bare = [_retraction(update.fact) for update in updates]
        mixed = mixed_facts(bare)
        newest = {write.fact.position for write in newest_writes(bare, stored={})}
        return [each for each in updates if each.fact.position in newest or fact_name(each.fact) in mixed]

    def _encode_singly(self, parsed: Sequence[ParsedRecord], refused: list[DeadLetter]) -> list[FactWrite]:
        """One after the other, which tells the facts that cannot be encoded from their neighbours.

        Not only the newest ones: if that of a fact is refused, the one before it stands.
        """
        writes: list[FactWrite] = []
        for record, update in parsed:
            try:
                writes.extend(self._alone(update))
            except InvalidArgumentError as error:
                refused.append(DeadLetter(record, InvalidEventError("encode", error.violations)))
        return writes

    def _alone(self, update: ParsedUpdate) -> list[FactWrite]:
        """The write of one update; without the other names of its subject, if it can only be encoded so."""
        try:
            return self._with_vectors([update])
        except InvalidArgumentError:
            text, names, _ = update.knowledge.partition(ALIAS_MARK)
            if not names:
                raise
        writes = self._with_vectors([replace(update, knowledge=text.rstrip())])
        fact = update.fact
        logger.warning(
            "fact %r of namespace %r is too long with its aliases: encoded without", fact.fact_id, fact.namespace
        )
        return writes

    def _with_vectors(self, updates: Sequence[ParsedUpdate]) -> list[FactWrite]:
        """The writes of these updates, in their order; the live ones go through the model at once."""
        texts = [update.knowledge for update in updates if not update.fact.retracted]
        if not texts:
            return [_retraction(update.fact) for update in updates]
        encoded = iter(self._encoder.encode(texts))
        self._count_unreadable(texts)
        facts = [update.fact for update in updates]
        return [_retraction(fact) if fact.retracted else _write(fact, next(encoded)) for fact in facts]

    def _count_unreadable(self, texts: Sequence[str]) -> None:
        unreadable = sum(self._encoder.unknown_share(text) > UNREADABLE_SHARE for text in texts)
        if unreadable:
            self._metrics.unreadable_facts.inc(unreadable)
            logger.warning("%d facts are written in words that the text encoder does not know", unreadable)


def _write(fact: Fact, encoded: EncodedFact) -> FactWrite:
    return FactWrite(fact, encoded.vector, encoded.tokens, encoded.prompt)


def _retraction(fact: Fact) -> FactWrite:
    return FactWrite(fact, None, None, None)
