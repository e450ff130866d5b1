"""Bad input by the hundred: rows, files and configs are taken or refused on one line."""

import contextlib
import dataclasses
import json
import string

from helpers import byte_tokenizer, compose, tiny_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import forest
import preference_datasets as data
import settings as config
import train
import trainers
import utils
from utils import UserError

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=8)
)


JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


GOOD = {
    "id": "1",
    "prompt": "Say",
    "responses": [
        {"text": "a", "reward": 1, "belief": {"class": "1", "text": "b"}},
        {"text": "c", "reward": 2, "belief": {"class": "2", "text": "d"}},
    ],
    "pairs": [[0, 1]],
    "belief_probs": [0, 0.5, 0.5, 0, 0, 0],
}


TOKENIZER, PLAIN = byte_tokenizer(), compose("loss=dpo")


COLUMNS = sorted({c for needed, _ in data.READERS for c in needed} | {"id", "context", "reject_choice_id"})


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def only_user_errors(job):
    """`job` works, or says what is wrong on one line."""
    try:
        return job()
    except UserError as error:
        assert str(error) and utils.one_line(error).count("\n") == 0


@st.composite
def damaged_rows(draw):
    """A good row with one to three values replaced, removed or added anywhere in it."""
    row = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        place, key = row, draw(st.sampled_from([*GOOD, "extra"]))
        while isinstance(place.get(key) if isinstance(place, dict) else place[key], (dict, list)) and draw(
            st.booleans()
        ):
            place = place[key]
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
        if isinstance(place, dict) or len(place):
            place[key] = draw(JSON)
    return row


@settings(max_examples=250, **FUZZ)
@given(
    st.lists(
        st.one_of(
            damaged_rows(), JSON, st.dictionaries(st.sampled_from(COLUMNS), JSON, min_size=3, max_size=6)
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([".jsonl", ".json"]),
    st.sampled_from(sorted(data.VIEWS)),
)
def test_any_row_is_read_or_refused_on_one_line(tmp_path_factory, rows, suffix, view):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows))
    read_and_view(path, view)


def read_and_view(path, view):
    """The whole way of a file to token trees, and its audit."""
    before = path.read_bytes()

    def job():
        groups = data.load_groups(str(path), "all")
        examples = data.view(groups, view)
        trees = data.tokenize(groups, examples, TOKENIZER, data.Limits(64, 32)) if examples else []
        json.dumps(data.audit_groups(groups, examples, trees))
        for tree in trees:
            forest.pack([tree], [[0]], 0)

    only_user_errors(job)
    assert path.read_bytes() == before


HOSTILE = (
    b"[" * 100_000,
    b'{"prompt":' * 50_000,
    b"PAR1" + bytes(40) + b"PAR1",
    b"1" * 5000,
    b"\xef\xbb\xbf{}",
    b"\0\n\r,\"'",
    json.dumps(GOOD).encode() * 2,
    json.dumps(GOOD).replace("Say", "\\ud800").encode(),
    b"prompt,responses\na,b,c\n",
)


@settings(max_examples=150, **FUZZ)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet=string.printable, max_size=60).map(str.encode),
        st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(
            lambda c: (lambda b: b[: c[0]] + c[1] + b[c[0] + len(c[1]) :])((json.dumps(GOOD) + "\n").encode())
        ),
        st.sampled_from(range(len(HOSTILE))).map(HOSTILE.__getitem__),
    ),
    st.sampled_from(data.SUFFIXES),
)
def test_any_file_is_read_or_refused_on_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(content)
    read_and_view(path, "target")


VALUES = st.one_of(
    JSON,
    st.sampled_from(
        [-1, 0, 1, 1e308, float("nan"), float("inf"), "auto", "${lr}", "a/b", "", [], {}, ["x"], True]
    ),
)


KEYS = sorted(
    {
        *(field.name for field in dataclasses.fields(config.TrainSettings)),
        "wandb.enabled",
        "wandb.entity",
        "model.name_or_path",
        "model.archive",
        "model.policy_dtype",
        "model.tokenizer_name_or_path",
        "model.trust_remote_code",
        "model.extra",
        "loss.name",
        "loss.beta",
        "loss.extra",
        "extra",
        *(k for k in PLAIN if not k.startswith("hydra")),
    }
)


@settings(max_examples=250, **FUZZ)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_config_is_taken_or_refused_on_one_line(changes):
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values = OmegaConf.to_container(OmegaConf.create(PLAIN))
    for key, value in changes.items():
        place, _, last = key.rpartition(".")
        where = values[place] if place else values
        if isinstance(where, dict):
            where[last] = value

    def job():
        chosen = config.train_settings(values)
        needs = train.bind_loss(chosen)
        if chosen.datasets == ["opinions/republican"]:
            data.read_splits(dataclasses.replace(chosen, eval_datasets=None), needs)
        trainers.make_optimizer(tiny_policy(), chosen.optimizer, chosen.lr)

    with contextlib.suppress(OmegaConfBaseException):  # run_entry makes one line of these
        only_user_errors(job)
