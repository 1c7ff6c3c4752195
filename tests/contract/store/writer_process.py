"""A process that writes batches of facts to an edge store, printing the number of each written batch."""

import itertools
import sys
from pathlib import Path

from contract.store.samples import MODEL_VERSION, PROMPT_WIDTH, VECTOR_SIZE, make_fact, make_write
from recipe_store import FactWrite
from recipe_store.edge_store import open_edge_store

NAMESPACE = "killed"
BATCH_SIZE = 50


def batch(number: int) -> list[FactWrite]:
    """Another revision of each of the same facts."""
    offset = number * BATCH_SIZE
    facts = [make_fact(NAMESPACE, f"f{n}", number + 1, offset + n) for n in range(BATCH_SIZE)]
    return [make_write(fact) for fact in facts]


def main(path: Path, first_batch: int) -> None:
    store = open_edge_store(path, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    for number in itertools.count(first_batch):
        store.write(batch(number))
        print(number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
