"""What a loss needs is declared beside it, and whatever asks is told by the declaration: own losses too."""

import ast
import functools
import inspect
import re
import sys

import pytest
import torch
from data_helpers import write
from helpers import ROOT, compose, training_lines
from loss_helpers import make, ranked
from omegaconf import OmegaConf

import losses
from groups.views import VIEWS
from utils import UserError

FILES = sorted(path.stem for path in (ROOT / "config" / "loss").glob("*.yaml"))


def of_file(name):
    """The loss's name, its keys and its view, as a file of config/loss has them."""
    config = compose(f"loss={name}")
    keys = OmegaConf.to_container(config.loss, resolve=True)
    return keys.pop("name"), keys, config.responses


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_the_natural_view_of_what_its_loss_needs(file):
    name, keys, responses = of_file(file)
    losses.bind(name, keys)
    needs = losses.needs(name, keys)
    assert responses == needs.responses or file == "gdpo_calibration"
    assert responses in VIEWS
    assert VIEWS[responses].conditioned == needs.beliefs


@pytest.mark.parametrize("file", FILES)
def test_a_loss_that_declares_no_reference_reads_none(file):
    """Its value and its gradient are the same whatever the reference is; another's are not."""
    name, keys, _ = of_file(file)
    loss = functools.partial(losses.LOSSES[name], **keys)
    scores = ranked([[-3.0, -5.0]], [[2.0, 1.0]])._replace(kl=torch.tensor(0.1))
    p = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    beliefs = {"class_logps": p.log(), "class_probs": p, "belief_logp": p[:, 0], "belief_length": p[:, 1]}
    scores = scores._replace(**beliefs)
    other = scores._replace(reference=torch.tensor([[-1.0, -0.5]], dtype=torch.float64))
    reads = loss(scores).item() != loss(other).item()
    assert reads == losses.needs(name, keys).reference


def test_reference_free_says_whether_the_reference_is_read():
    assert losses.needs("dpo", {"beta": 0.1}).reference
    assert not losses.needs("dpo", {"beta": 0.1, "reference_free": True}).reference
    inner = {"beta": 0.1, "preference_keys": {"reference_free": True}}
    assert not losses.needs("gdpo", inner).reference
    hinge = {"beta": 0.1, "delta": 1.0, "nll_weight": 0.0}
    assert not losses.needs("slic", hinge).reference
    assert losses.needs("slic", {**hinge, "reference_free": False}).reference


@pytest.mark.parametrize("loss", ["slic", "simpo", "plackett_luce", "lipo"])
def test_gdpo_takes_any_loss_of_a_beta_as_its_preference_term(loss):
    name, keys, _ = of_file(loss)
    beta = keys.pop("beta")
    whole = {"beta": beta, "preference": name, "preference_keys": keys}
    losses.bind("gdpo", whole)
    asked, alone = losses.needs("gdpo", whole), losses.needs(name, {"beta": beta, **keys})
    assert asked == alone._replace(beliefs=True)
    scores = ranked([[1.0, -0.5]], [[1.0, 0.0]])
    value = losses.gdpo(scores, calibration_weight=0, belief_weight=0, **whole)
    assert value.item() == losses.LOSSES[name](scores, beta, **keys).item()


def test_no_other_room_names_a_loss():
    """In code, and in what a person reads; docstrings and comments may say which paper a thing is from."""
    rooms = [ROOT / name for name in ("train.py", "trainers.py", "schedule.py", "forest.py", "reference.py")]
    for wing in ("groups", "evaluation", "models", "runs"):
        rooms += sorted((ROOT / wing).rglob("*.py"))
    named = re.compile(rf"\bloss(\.name)?[=:] ?({'|'.join(losses.LOSSES)})\b")
    for path in rooms:
        tree = ast.parse(path.read_text())
        docstrings = {
            ast.get_docstring(n, clean=False) for n in ast.walk(tree) if isinstance(n, HAVE_DOCSTRINGS)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value not in docstrings
            ):
                assert node.value not in losses.LOSSES or node.value in FORMATS, f"{path}, line {node.lineno}"
                assert not named.search(node.value), f"{path}, line {node.lineno}"


HAVE_DOCSTRINGS = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FORMATS = {"dpo", "kto", "sft"}  # also names of formats of rows, and of a way to cut prompts


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_a_declared_term_has_its_weight_in_a_key(name):
    keys = inspect.signature(losses.LOSSES[name]).parameters
    assert all(f"{term}_weight" in keys for term in losses.terms(name))
    assert bool(losses.terms(name)) == (name == "gdpo")


# --- a loss of one's own ------------------------------------------------------------------------------------

OWN = """
import losses
from losses import Needs, Positive, Scores, declare

@declare(Needs(columns="several", reference=False, rewards=True))
def best_likelihood(scores: Scores, beta: Positive, tokens: int = 1):
    s = (beta * scores.policy / tokens).masked_fill(~scores.valid, float("-inf"))
    return -s.log_softmax(-1)[:, 0]

@declare(Needs(columns="pair"))
def mean(scores: Scores):
    return scores.policy.mean()

@declare(Needs(columns="pair"))
def bare(scores: Scores, beta):
    return scores.policy[:, 0]

@declare(Needs(columns="pair"))
def odd(scores: Scores, beta: list[int]):
    return scores.policy[:, 0]

def undeclared(scores: Scores):
    return scores.policy[:, 0]

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module with losses of one's own."""
    name = f"own_losses_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / f"{name}_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = dict(losses.LOSSES)
    yield name
    sys.modules.pop(name, None)
    losses.LOSSES.clear()
    losses.LOSSES.update(before)


def test_a_loss_of_ones_own_is_bound_and_trained_with_by_its_name(own, run, ranked_file):
    name = f"{own}:best_likelihood"
    losses.bind(name, {"beta": 0.5})
    assert losses.needs(name, {"beta": 0.5}) == losses.Needs("several", reference=False, rewards=True)
    view = losses.needs(name, {"beta": 0.5}).responses
    files = [f"datasets=[{ranked_file}]", f"eval_datasets=[{ranked_file}]", "n_examples=16"]
    folder = run("loss=sft", f"loss.name={name}", "+loss.beta=0.5", f"responses={view}", *files)
    assert len(training_lines(folder)) >= 2
    with pytest.raises(UserError, match=f"loss.name={name} compares several responses; set responses=ranked"):
        run("loss=sft", f"loss.name={name}", "+loss.beta=0.5", "responses=target", *files, name="other")


def test_a_pair_without_rewards_gets_none_made_up_unless_a_loss_says_which(own, run, tmp_path):
    rows = [{"prompt": f"Say {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]
    data = f"datasets=[{write(tmp_path / 'pairs.jsonl', *rows)}]"
    given = ["loss=sft", f"loss.name={own}:best_likelihood", "+loss.beta=0.5", "responses=pairs", data]
    message = "needs rewards, and responses=pairs carries none; set responses=ranked, with a reward on each"
    with pytest.raises(UserError, match=message):
        run(*given)


def test_a_loss_of_ones_own_may_be_gdpos_preference_term(own):
    keys = {"beta": 0.1, "preference": f"{own}:best_likelihood", "preference_keys": {"tokens": 2}}
    losses.bind("gdpo", keys)
    assert losses.needs("gdpo", keys).responses == "conditioned.all"
    with pytest.raises(ValueError, match="loss.preference_keys.gamma: .* takes no such key"):
        losses.bind("gdpo", {**keys, "preference_keys": {"gamma": 1}})
    with pytest.raises(ValueError, match="a loss whose first key is beta"):
        losses.bind("gdpo", {**keys, "preference": f"{own}:mean"})


def test_one_number_for_a_whole_pack_is_no_loss(own):
    losses.bind(f"{own}:mean", {})
    with pytest.raises(UserError, match=r"mean: gave shape \(\) for 3 examples; return one value each"):
        losses.loss_of(f"{own}:mean")(make([[0.0, 1.0]] * 3))


@pytest.mark.parametrize(
    "function,keys,message",
    [
        ("undeclared", {}, "does not say what it needs; write @declare"),
        ("nowhere", {}, "there is no nowhere in"),
        ("NUMBER", {}, "NUMBER is no function"),
        ("best_likelihood", {}, "loss.beta: .* needs this key"),
        ("best_likelihood", {"beta": -1}, "loss.beta=-1: must be greater than 0"),
        ("best_likelihood", {"beta": 1, "tokens": 0.5}, "loss.tokens=0.5: must be a whole number"),
        ("bare", {"beta": 1}, "does not say which values it takes; annotate it"),
        ("odd", {"beta": 1}, "its annotation .* is not understood"),
    ],
)
def test_what_is_wrong_with_a_loss_of_ones_own_is_said_in_one_line(own, function, keys, message):
    with pytest.raises((ValueError, UserError), match=message) as caught:
        losses.bind(f"{own}:{function}", keys)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported_is_named_in_one_line(own):
    for module, message in (("no_such_module", "there is no module"), (f"{own}_broken", "its module needs")):
        with pytest.raises(UserError, match=f"^loss.name={module}:loss: {message}") as caught:
            losses.bind(f"{module}:loss", {})
        assert "\n" not in str(caught.value)
