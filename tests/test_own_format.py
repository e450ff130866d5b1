"""Our own format: a bad row is named, with its field and the remedy."""

import pytest
from data_helpers import GOOD, write

import preference_datasets as data
from utils import UserError


def without(key):
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    "row,message",
    [
        (without("prompt"), "row 2: field prompt: missing or empty"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "field prompt: messages need a role and a content"),
        ({**GOOD, "belief_probs": [0.1, 0.9]}, "field belief_probs: has 2 entries for 6 classes"),
        ({**GOOD, "belief_probs": [-0.1, 0.2, 0.3, 0, 0.6, 0]}, "negative or no number"),
        ({**GOOD, "belief_probs": [0.1, 0, 0.3, 0, 0.7, 0]}, "sums to 1.1; make it sum to 1"),
        ({**GOOD, "responses": []}, "field responses: missing or empty"),
        ({**GOOD, "responses": [{"text": "  "}]}, r"field responses\[0\].text: missing or empty"),
        ({**GOOD, "responses": [{"text": "x", "reward": float("nan")}]}, "no finite number"),
        (
            {**GOOD, "responses": [{"text": "x", "belief": {"class": "9"}}]},
            r"field responses\[0\].belief: .* has no class among 0, 1, 2, 3, 4, 5",
        ),
        (
            {**GOOD, "responses": [{"text": "x"}, {"text": "y"}]},
            "belief_probs is given but a response has no belief",
        ),
        ({**GOOD, "pairs": [[0, 7]]}, r"field pairs: \[0, 7\] is no"),
        ({**GOOD, "pairs": [[1, 1]]}, r"field pairs: \[1, 1\] is no"),
        ({**GOOD, "pairs": [[0, 1], [1, 0], [0, 1]]}, r"field pairs: \[0, 1\] stands there twice"),
        ({**GOOD, "prompts": "x"}, "field prompts: unknown; known fields are"),
        ("{half a row", "row 2: not valid JSON"),
        ("[1]", "row 2: not a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        data.load_groups(write(tmp_path / "bad.jsonl", GOOD, row), "train")
