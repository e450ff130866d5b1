"""Export: what is handed on opens everywhere, says what is known of it, and appears whole or not at all."""

import json
import os
import re
import stat
import sys

import huggingface_hub
import pytest
import torch
import transformers
from export_helpers import (
    CODE,
    HOSTILE,
    evaluated,
    exported,
    front_matter,
    run_with_adapters,
    run_with_audit,
    with_keys,
)
from helpers import CPU, assert_close, assert_equal, command, compose, save_tiny, tensors_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import export
import models
from handoff import card, hub, place, story
from handoff.config import export_settings
from provenance import own_version
from utils import UserError, one_line

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def card_in(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


# --- the weights --------------------------------------------------------------------------------------------


def test_a_run_is_handed_on_with_its_weights_and_without_its_training_state(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    exported(f"ckpt={run}", f"to={to}")
    names = {path.name for path in to.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "trainer_state" not in names
    assert_equal(load_file(to / "model.safetensors"), load_file(run / "best" / "model.safetensors"))
    pipeline = transformers.pipeline("text-generation", model=str(to))
    assert pipeline("Say", max_new_tokens=2, do_sample=False)[0]["generated_text"].startswith("Say")


def test_whoever_enters_may_read_what_is_handed_on(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    before = os.umask(0o077)
    try:
        exported(f"ckpt={run}", f"to={to}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(to.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in to.iterdir()} == {0o644}


def test_no_file_of_an_export_names_a_path_of_this_machine(tmp_path):
    run, to = (
        run_with_audit(tmp_path / "out" / "gdpo", data_set=str(tmp_path / "mine.jsonl")),
        tmp_path / "to",
    )
    evaluated(run / "report", {"gdpo": run / "step-000001"})
    exported(f"ckpt={run}", f"to={to}")
    for path in to.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert "local_files_only" not in (to / "tokenizer_config.json").read_text()
    assert "mine.jsonl" in card_in(to)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_the_same_weights_rounded(tmp_path, dtype):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    exported(f"ckpt={run}", f"to={to}", f"dtype={dtype}")
    ours = load_file(run / "best" / "model.safetensors")
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in ours.items()}
    assert_equal(tensors_of(to.glob("model*.safetensors")), rounded)
    assert json.loads((to / "config.json").read_text())["dtype"] == dtype


def test_a_policy_pt_becomes_a_folder_that_opens(tmp_path):
    base, to = save_tiny(tmp_path / "base"), tmp_path / "to"
    state = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "other", seed=3)).state_dict()
    torch.save({"state": state}, tmp_path / "policy.pt")
    exported(f"ckpt={tmp_path}/policy.pt", f"base_model={base}", f"to={to}")
    assert_close(AutoModelForCausalLM.from_pretrained(to).state_dict(), state, atol=0)
    assert AutoTokenizer.from_pretrained(to).eos_token == "<eos>"


def test_merged_adapters_and_adapters_alone_compute_the_same(tmp_path):
    from peft import AutoPeftModelForCausalLM

    run = run_with_adapters(tmp_path / "out" / "lora")
    exported(f"ckpt={run}", f"to={tmp_path}/merged")
    exported(f"ckpt={run}", f"to={tmp_path}/adapters", "merge=false")
    assert not (tmp_path / "merged" / "adapter").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    apart = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "tiny")
    assert torch.allclose(logits(merged), logits(apart), atol=1e-5)
    assert not torch.allclose(logits(merged), logits(base), atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "adapters").eos_token == "<eos>"
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert front_matter(tmp_path / "adapters")["library_name"] == "peft"


def test_an_export_is_a_checkpoint_again(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    exported(f"ckpt={run}", f"to={to}")
    exported(f"ckpt={to}", f"to={tmp_path}/again")
    assert_equal(load_file(tmp_path / "again" / "model.safetensors"), load_file(to / "model.safetensors"))
    assert "handed on as it was" in card_in(tmp_path / "again")


# --- the card -----------------------------------------------------------------------------------------------


def test_the_card_tells_what_the_run_and_its_newest_evaluation_recorded(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    step = run / "step-000001"
    evaluated(run / "report", {"gdpo": step}, value=0.5, age=-10)
    evaluated(tmp_path / "out" / "other" / "report", {"gdpo": step, "x": "x"}, value=0.25, age=-20)  # newer
    evaluated(tmp_path / "out" / "third" / "report", {"gdpo": tmp_path / "elsewhere"}, value=0.75, age=-30)
    exported(f"ckpt={run}", f"to={to}", "license=apache-2.0", "base_model=org/base")
    text, front = card_in(to), front_matter(to)
    assert front["base_model"] == "org/base" and front["license"] == "apache-2.0"
    (result,) = front["model-index"][0]["results"]
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("js_distance_probability", 0.25)]
    table = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines()}
    assert ("opinions/republican", "train", "117", "363", "234") in table
    assert ("JSD (probability)", "0.250", "[0.125, 0.375]", "39") in table
    assert ("loss.beta", "0.1") in table and ("examples", "64") in table
    assert "arXiv 2305.18290" in text and transformers.__version__ in text
    assert ("grove, training", CODE) in table and ("grove, export", own_version()) in table
    huggingface_hub.ModelCard.load(to / "README.md")


def test_an_evaluation_from_before_the_checkpoint_is_not_of_it(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    evaluated(run / "report", {"gdpo": run / "step-000001"}, age=1000)
    exported(f"ckpt={run}", f"to={to}")
    assert "model-index" not in front_matter(to) and "## Evaluation" not in card_in(to)


def test_a_damaged_report_of_somebody_is_left_out(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text("{")
    exported(f"ckpt={run}", f"to={to}")
    assert "## Evaluation" not in card_in(to)


def test_hostile_names_stay_text(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo", data_set=HOSTILE), tmp_path / "to"
    with_keys(run, loss={"name": HOSTILE})
    settings = export_settings(
        {**dict(compose(name="export")), "ckpt": str(run), "to": str(to), "license": "other"}
        | {"license_name": HOSTILE, "license_link": HOSTILE}
    )
    told = story.story_of(export.find_checkpoint(str(run), None))
    to.mkdir()
    (to / "README.md").write_text(card.card_of(told, settings), encoding="utf-8")
    front = front_matter(to)
    assert front["license_name"] == HOSTILE and HOSTILE in front["tags"]
    body = card_in(to).split("\n---\n", 1)[1]
    assert "</script>" not in body and '\n# "c"' not in body
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert place._is_export(to)
    assert front["tags"] == huggingface_hub.ModelCard.load(to / "README.md").data.tags


def test_secrets_of_the_environment_stand_in_no_card(tmp_path, monkeypatch):
    run, to = run_with_audit(tmp_path / "out" / "gdpo", data_set="token-0123456789abcdef"), tmp_path / "to"
    monkeypatch.setenv("MY_TOKEN", "token-0123456789abcdef")
    exported(f"ckpt={run}", f"to={to}")
    assert "0123456789abcdef" not in card_in(to)


def test_the_stages_before_a_run_are_told(tmp_path):
    first, second = run_with_audit(tmp_path / "out" / "sft"), run_with_audit(tmp_path / "b" / "gdpo")
    started = {"name": "outputs/sft", "source": str(first / "step-000001"), "fingerprint": "0"}
    (second / "start.json").write_text(json.dumps(started))
    assert story.stages_of(export.find_checkpoint(str(second), None)) == [
        "sft",
        str(tmp_path / "out" / "tiny"),
    ]


# --- the place ----------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_never_replaced_but_an_earlier_export_may_be(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    to.mkdir()
    (to / "thesis.txt").write_text("mine")
    for overwrite, problem in (("false", "is not empty"), ("true", "something else than an earlier export")):
        with pytest.raises(UserError, match=problem):
            exported(f"ckpt={run}", f"to={to}", f"overwrite={overwrite}")
    assert (to / "thesis.txt").read_text() == "mine"
    (to / "thesis.txt").unlink()
    exported(f"ckpt={run}", f"to={to}")  # an empty folder may be taken
    (to / "old.safetensors").touch()
    with pytest.raises(UserError, match="is not empty"):
        exported(f"ckpt={run}", f"to={to}")
    exported(f"ckpt={run}", f"to={to}", "overwrite=true")
    assert not (to / "old.safetensors").exists()
    with pytest.raises(UserError, match="something else"):
        exported(f"ckpt={run}", f"to={run}", "overwrite=true")
    assert (run / "best" / "config.json").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_half_written_never_has_the_name(tmp_path, monkeypatch, error):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    exported(f"ckpt={run}", f"to={to}")
    before = {path.name: path.read_bytes() for path in to.iterdir()}

    def fail(*arguments):
        raise error

    monkeypatch.setattr(card, "card_of", fail)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    for place_of in (to, tmp_path / "new"):
        with pytest.raises(expected):
            exported(f"ckpt={run}", f"to={place_of}", "overwrite=true")
    assert before == {path.name: path.read_bytes() for path in to.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out", "to"} - (
        set() if (tmp_path / "cache").exists() else {"cache"}
    )


BAD = [
    (["to=x"], "ckpt: missing"),
    (["ckpt=gpt2"], "to and push: both are null"),
    (["ckpt=/nowhere", "to=x"], "no such folder or file"),
    (["ckpt=gpt2", "to=x", "dtype=int8"], "config key dtype=int8: choose one of null, float32"),
    (["ckpt=gpt2", "to=x", "gguf=yes"], "config key gguf=yes: choose one of no, f32"),
    (["ckpt=gpt2", "push=name"], "config key push=name: must be owner/name"),
    (["ckpt=gpt2", "push=../name"], "must be owner/name"),
    (["ckpt=gpt2", "to=x", "license=other"], "needs license_name"),
    (["ckpt=gpt2", "to=x", "merge=false", "gguf=f16"], "takes a whole model"),
    (["ckpt=gpt2", "to=x", "+colour=red"], "config key colour: unknown"),
]


@pytest.mark.parametrize("overrides,message", BAD)
def test_bad_exports_are_one_line_errors(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        exported(*overrides)
    assert "\n" not in one_line(caught.value)


def test_adapters_alone_need_adapters_and_a_base_that_others_have(tmp_path, monkeypatch):
    plain, run = run_with_audit(tmp_path / "a" / "gdpo"), run_with_adapters(tmp_path / "b" / "lora")
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in_for_a_token")
    with pytest.raises(UserError, match="holds no adapters"):
        exported(f"ckpt={plain}", f"to={tmp_path}/to", "merge=false")
    with pytest.raises(UserError, match="only here; give base_model"):
        exported(f"ckpt={run}", "push=org/name", "merge=false")


@pytest.mark.parametrize(
    "typed,meant",
    [
        (["outputs/gdpo", "to=x"], ["ckpt='outputs/gdpo'", "to=x"]),
        (["it's, [here]", "to=x"], ["ckpt='it\\'s, [here]'", "to=x"]),
        (["ckpt=a", "to=x"], ["ckpt=a", "to=x"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_the_run_may_be_the_first_plain_argument(typed, meant):
    assert export.with_ckpt(typed) == meant


def test_the_command_exports_from_any_folder(tmp_path):
    run = run_with_audit(tmp_path / "out" / "it's gdpo")
    done = command(sys.executable, "export.py", str(run), f"to={tmp_path}/to", "dtype=bfloat16")
    assert done.stdout.startswith("export: ") and (tmp_path / "to" / "config.json").exists()


# --- others' tools ------------------------------------------------------------------------------------------


class Hub:
    """A stand-in for the hub's client: it keeps what it is given."""

    repositories: dict = {}
    tokens: list = []

    def __init__(self, token):
        self.tokens.append(token)

    def whoami(self):
        return {"name": "org"}

    def repo_exists(self, repository):
        return repository in self.repositories

    def list_repo_files(self, repository):
        return [".gitattributes", *self.repositories[repository]]

    def create_repo(self, repository, private, exist_ok):
        self.repositories.setdefault(repository, {})
        return f"hub/{repository}"

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
        assert delete_patterns == "*"
        self.repositories[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}


def test_a_push_gives_the_hub_what_a_folder_would_have(tmp_path, monkeypatch, capsys):
    run = run_with_audit(tmp_path / "out" / "gdpo")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "repositories", {})
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in_for_a_token")
    exported(f"ckpt={run}", "push=org/name")
    files = Hub.repositories["org/name"]
    assert files["model.safetensors"] == (run / "best" / "model.safetensors").read_bytes()
    assert b'model="org/name"' in files["README.md"] and "trainer_state" not in files
    assert "hub/org/name" in capsys.readouterr().out and set(Hub.tokens) == {"hf_stand_in_for_a_token"}
    with pytest.raises(UserError, match="holds files; give another name, or overwrite=true"):
        exported(f"ckpt={run}", "push=org/name")
    exported(f"ckpt={run}", "push=org/name", f"to={tmp_path}/to", "overwrite=true")
    assert Hub.repositories["org/name"]["README.md"] == (tmp_path / "to" / "README.md").read_bytes()


def test_a_push_without_a_token_or_a_network_is_one_quick_line(tmp_path, monkeypatch):
    run = run_with_audit(tmp_path / "out" / "gdpo")
    for name in hub.TOKENS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="needs a token .* in the environment; export HF_TOKEN="):
        exported(f"ckpt={run}", "push=org/name")
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in_for_a_token")  # the tests have no network: HF_HUB_OFFLINE
    with pytest.raises(UserError, match="the hub could not be asked") as caught:
        exported(f"ckpt={run}", "push=org/name", f"to={tmp_path}/to")
    assert "\n" not in str(caught.value) and "stand_in" not in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_gguf_is_written_by_the_converter_of_llama_cpp(tmp_path, monkeypatch):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        UserError, match=r"gguf=f16: .* run: python llama.cpp/convert_hf_to_gguf.py .*to --outtype f16"
    ):
        exported(f"ckpt={run}", f"to={to}", "gguf=f16")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "convert_hf_to_gguf.py"
    script.write_text(
        "import sys; a = sys.argv; assert a[1::1].count('--outfile') == 1\n"
        "open(a[a.index('--outfile') + 1], 'w').write('GGUF ' + a[a.index('--outtype') + 1])\n"
    )
    script.chmod(0o755)
    exported(f"ckpt={run}", f"to={to}", "gguf=f16")
    assert (to / "model-f16.gguf").read_text() == "GGUF f16"
    script.write_text("import sys; sys.exit('Model FooForCausalLM is not supported')")
    with pytest.raises(UserError, match="failed .Model FooForCausalLM is not supported"):
        exported(f"ckpt={run}", f"to={tmp_path}/other", "gguf=f16")
    assert not (tmp_path / "other").exists()


def test_what_is_exported_computes_what_the_policy_does(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    exported(f"ckpt={run}", f"to={to}")
    policy = models.make_policy(models.PolicySpec(str(run / "best")), CPU, False)
    assert torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(to)), policy.model(IDS).logits, atol=1e-5
    )
