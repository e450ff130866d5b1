"""What several tests of the data's way need: a good row, a file of rows, and text from ids."""

import json

from helpers import byte_tokenizer

GOOD = {
    "id": "a",
    "prompt": "How is it?",
    "responses": [
        {"text": "Fine.", "reward": 7.5, "belief": {"class": "4", "text": "Good"}},
        {"text": "Bad!", "reward": 2, "belief": {"class": "2", "text": "Poor"}},
    ],
    "belief_probs": [0.1, 0, 0.3, 0, 0.6, 0],
}


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def decode(ids):
    return byte_tokenizer().decode(list(ids))
