"""What several tests of the data's way need: a good row, a file of rows, and text from ids."""

import csv
import functools
import json
from collections import Counter

from helpers import CPU, byte_tokenizer, compose
from omegaconf import OmegaConf

import preference_datasets as data
import train
from settings import train_settings

GOOD = {
    "id": "a",
    "prompt": "How is it?",
    "responses": [
        {"text": "Fine.", "reward": 7.5, "belief": {"class": "4", "text": "Good"}},
        {"text": "Bad!", "reward": 2, "belief": {"class": "2", "text": "Poor"}},
    ],
    "belief_probs": [0.1, 0, 0.3, 0, 0.6, 0],
}
OF_AUTHORS = {  # what a row of the GDPO authors' files holds beside its prompt
    "accept_response": "good",
    "reject_response": "bad",
    "accept_choice": "Good",
    "reject_choice": "Poor",
    "accept_choice_id": 4,
    "reject_choice_id": 2,
    "probabilities": [0, 0, 0.5, 0, 0.5, 0],
}


def write(path, *rows):
    """Write rows (JSON values, or lines as they are) to a file; return its path as a string."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def write_csv(path, rows, **options):
    """A .csv file of rows: lists and objects as JSON, as every value is a text there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, **options)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return str(path)


def without_notes(dropped):
    """Counts of what was left out, without those of what was done to rows that are kept."""
    return Counter({name: count for name, count in dropped.items() if not name.startswith("note: ")})


def splits_of(*overrides, loss="dpo"):
    """The splits that a training run with this config reads."""
    settings, needs = settings_of(*overrides, loss=loss)
    return data.read_splits(settings, needs)


def group_of(row, where="here"):
    """A row of our own format as a group."""
    return data.parse_group(row, where)


def tree_of(group, columns, limits, conditioned=False, tokenizer=None, audit=None):
    """The token tree of one example of one group."""
    example = data.Example(0, columns, conditioned)
    (tree,) = data.tokenize([group], [example], tokenizer or byte_tokenizer(), limits, audit=audit)
    return tree


def decode(ids):
    """The text of byte tokens."""
    return byte_tokenizer().decode(list(ids))


# --- a run's data -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)  # composing a config takes longer than preparing tiny data
def settings_of(*overrides, loss="dpo"):
    """A run's settings, and what its loss needs of the data."""
    settings = train_settings(OmegaConf.to_container(compose(f"loss={loss}", *overrides), resolve=True))
    train.import_data()
    return settings, train.bind_loss(settings)


def prepared(*overrides, loss="dpo", tokenizer=None):
    """A run's data as all processes read it."""
    settings, needs = settings_of(*overrides, loss=loss)
    return data.prepare(settings, needs, tokenizer or byte_tokenizer(), CPU)


def rows_with_beliefs(count):
    """Rows of two to four responses with rewards and beliefs, and the distribution of every prompt."""
    rows = []
    for i in range(count):
        responses = []
        for j in range(2 + i % 3):
            belief = {"class": str(1 + (i + j) % 4), "text": "abcd"[j] * (1 + i % 2)}
            responses.append({"text": f"It is {i + j}." * (1 + j), "reward": (i + j) % 4, "belief": belief})
        shares = [1 + i % 2, 2, 3, 1, 0, 0]
        probs = [share / sum(shares) for share in shares]
        rows.append({"id": str(i), "prompt": f"Say {i}", "responses": responses, "belief_probs": probs})
    return rows
