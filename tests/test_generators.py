"""Which engine answers for a checkpoint, and how responses are drawn: servers, vLLM, sets of decodings."""

import json

import pytest
from data_helpers import write
from families import save_family
from helpers import (
    CPU,
    compose,
    evaluation,
    json_lines,
    run_of,
    save_tiny,
    tiny_policy,
)
from omegaconf import OmegaConf
from servers import likely, says, server
from test_predictions import asked, cheap_judge, said, tiny  # noqa: F401 - fixtures

from evaluation import answers, engines, fill_settings, find_checkpoints
from evaluation.predictions import open_predictions
from generation import Written, decodings_of
from groups import Group
from settings import evaluation_settings
from utils import UserError

GROUPS = [Group("a", "Say a", ()), Group("b", "Say b", ()), Group("c", "Say a", ())]


class Scripted:
    """A generator that says its prompt's last letter, the decoding and the number."""

    name = "scripted"

    def __init__(self, text="{0}{1}{2}"):
        self.text, self.draws = text, []

    def identity(self):
        return {"text": self.text}

    def write(self, prompts, draws, decoding, seed, done):
        self.draws += [(decoding.name, *draw) for draw in draws]
        for draw in reversed(draws):
            text = self.text.format(prompts[draw.prompt].prompt[-1], decoding.name, draw.number)
            done(draw, Written(text, "stop", 3))

    def close(self):
        pass


def settings_of(*overrides):
    """Filled settings of an evaluation, and its checkpoints."""
    config = OmegaConf.to_container(compose(*overrides, name="evaluate"), resolve=True)
    settings = evaluation_settings(config)
    checkpoints = find_checkpoints(settings)
    return fill_settings(settings, checkpoints), checkpoints


def responses(folder, generator, *overrides):
    """What `respond` gives for GROUPS."""
    settings, checkpoints = settings_of("ckpt=openai:m", *overrides)
    with open_predictions(folder, checkpoints, settings, CPU) as made:
        written = answers.respond(generator, "m", GROUPS, settings, CPU, made)
        texts = {name: [[w.text for w in some] for some in of_name] for name, of_name in written.items()}
        return texts, made.lines()


# --- decodings ----------------------------------------------------------------------------------------------


def test_decodings_are_asked_one_by_one_and_greedy_once(tmp_path):
    generator = Scripted()
    texts, lines = responses(tmp_path, generator, "decoding=[greedy,t0.2,0.5]", "n_samples=3")
    assert texts["greedy"] == [["agreedy0"] * 3, ["bgreedy0"] * 3, ["agreedy0"] * 3]
    assert texts["t0.2"][1] == ["bt0.20", "bt0.21", "bt0.22"]
    assert texts["t0.5"][0] == texts["t0.5"][2]  # the same prompt is asked once
    assert len(generator.draws) == len(lines) == 2 * (1 + 3 + 3)
    assert generator.draws[:2] == [("greedy", 0, 0), ("greedy", 1, 0)]
    again = Scripted()
    assert responses(tmp_path, again, "decoding=[greedy,t0.2,0.5]", "n_samples=3")[0] == texts
    assert again.draws == []


def test_fewer_long_responses_are_at_work_at_once():
    for overrides, at_once in (([], 256), (["max_new_tokens=2048"], 32), (["batch_size=7"], 7)):
        assert settings_of("ckpt=openai:m", *overrides)[0].batch_size == at_once
    assert settings_of("ckpt=openai:m", "max_new_tokens=1000000")[0].batch_size == 16


def test_no_samples_are_no_responses(tmp_path):
    generator = Scripted()
    texts, lines = responses(tmp_path, generator, "n_samples=0")
    assert texts == {"t1": [[], [], []]} and lines == [] and generator.draws == []


def test_names_of_decodings():
    assert [d.name for d in decodings_of(["greedy", "t0.20", "1.5"], None)] == ["greedy", "t0.2", "t1.5"]
    assert [d.name for d in decodings_of(None, 0.0)] == ["greedy"]
    assert decodings_of(None, 1.0)[0] == ("t1", 1.0)
    assert decodings_of(None, 0.123456789)[0].temperature == 0.123456789
    for names in (["hot"], ["t-1"], ["t"], ["tinf"], ["nan"], ["t0"]):
        with pytest.raises(UserError, match=f"decoding={names[0]}: unknown; give greedy, or t"):
            decodings_of(names, None)
    with pytest.raises(UserError, match="decoding=t0.50: stands there twice"):
        decodings_of(["t0.5", "t0.50"], None)


def test_decoding_and_temperature_exclude_one_another():
    with pytest.raises(UserError, match="decoding and temperature: both are given"):
        settings_of("ckpt=openai:m", "decoding=[greedy]", "temperature=1")
    settings, _ = settings_of("ckpt=openai:m", "decoding=[greedy]")
    assert settings.temperature is None


# --- empty responses ----------------------------------------------------------------------------------------


def test_responses_that_are_all_empty_are_refused_and_kept(tmp_path):
    with pytest.raises(
        UserError, match="ckpt m: all 6 responses are empty, the model ends at once; see that"
    ):
        responses(tmp_path, Scripted(text=""), "n_samples=2")
    assert len(json_lines(tmp_path / "predictions.jsonl")) == 4


def test_a_model_that_ends_at_once_has_nothing_to_measure(tmp_path, tiny):  # noqa: F811
    path = f"{tiny}/generation_config.json"
    with open(path, "w") as file:
        json.dump({"eos_token_id": list(range(259))}, file)
    command = [f"ckpt={tiny}", "n_prompts=2", "max_new_tokens=4", f"output={tmp_path}/r"]
    with pytest.raises(UserError, match="ckpt tiny: all 4 responses are empty, the model ends at once; see"):
        evaluation(*command, "n_samples=2")
    rows = json_lines(tmp_path / "r" / "predictions.jsonl")
    assert [(row["response"], row["finish"], row["tokens"]) for row in rows] == [("", "stop", 1)] * 4
    assert not (tmp_path / "r" / "report.json").exists()


# --- servers ------------------------------------------------------------------------------------------------


def test_a_server_is_a_row_beside_a_checkpoint(tmp_path, tiny, asked):  # noqa: F811
    def answer(request):
        return says("4<Somewhat good job>Fine.\n\n<Q> and so on")

    with server(answer) as served:
        run = run_of(tmp_path / "run", tiny)
        tiny_policy(max_position_embeddings=2048).model.save_pretrained(run / "best")
        quick = ["n_prompts=3", "n_samples=2", "max_new_tokens=4", "few_shot=1", f"api.base_url={served.url}"]
        evaluation(f"ckpt=[{run},openai:some/gpt]", *quick)
        found = json.loads((run / "report" / "report.json").read_text())
        rows = json_lines(run / "report" / "predictions.jsonl")
        first = served.count
        evaluation(f"ckpt=[{run},openai:some/gpt]", *quick)
        asked_again = served.count - first
    mine = [row for row in rows if row["checkpoint"] == "some/gpt"]
    assert len(mine) == 6 and {row["response"] for row in mine} == {"4<Somewhat good job>Fine."}
    assert "js_distance_probability" not in found["checkpoints"]["some/gpt"]
    assert found["checkpoints"]["some/gpt"]["js_distance_sampling"]["n"] == 3
    assert "js_distance_probability" in found["checkpoints"]["run"]
    assert first == 6 + 1 and asked_again == 1  # whether log-probs are offered


def test_class_probabilities_are_a_servers_where_it_offers_log_probs(tmp_path):
    def answer(request):
        return likely("4", {"4": -0.5, "5": -1.5, "x": -2.0})

    with server(answer) as served:
        quick = ["n_prompts=2", "n_samples=0", f"api.base_url={served.url}", f"output={tmp_path}/r"]
        evaluation("ckpt=openai:gpt", *quick)
    found = json.loads((tmp_path / "r" / "report.json").read_text())["checkpoints"]["gpt"]
    assert found["class_mass"]["value"] == pytest.approx(2.718281828**-0.5 + 2.718281828**-1.5)


def test_every_ckpt_is_the_servers_where_it_generates(tmp_path, tiny):  # noqa: F811
    run = run_of(tmp_path / "run", tiny, seed=7)
    settings, checkpoints = settings_of(f"ckpt=[{run},my-model,openai:x]", "generator=openai")
    assert [(c.name, c.served) for c in checkpoints] == [
        ("run", str(run)),
        ("my-model", "my-model"),
        ("x", "x"),
    ]
    assert settings.seed == 7  # what its run saved


def test_given_responses_are_scored_by_checkpoints_alone(tmp_path, tiny, ranked_file, said):  # noqa: F811
    with server() as served:
        own = [f"datasets=[{ranked_file}]", "split=all", f"api.base_url={served.url}", f"output={tmp_path}/r"]
        evaluation(f"ckpt=[openai:gpt,{tiny}]", *own)
        assert served.count == 0
        with pytest.raises(UserError, match="no prompt has belief_probs or a computed reward; give data"):
            evaluation("ckpt=openai:gpt", *own)
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert list(found["checkpoints"]) == ["tiny"]
    assert any(line.startswith("gpt: a server gives no log-probs of given responses") for line in said)


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["ckpt=openai:"], "ckpt=openai:: names no model; give openai:MODEL"),
        (["ckpt='openai: '"], "names no model"),
        (["ckpt=openai:gpt"], "no key; set the environment variable OPENAI_API_KEY"),
        (
            ["ckpt=openai:gpt", "shard=true", "api.base_url=http://localhost:1/v1"],
            "shard=true: no model is lo",
        ),
        (["ckpt=x", "generator=openai", "shard=true", "api.base_url=http://localhost:1/v1"], "shard=true"),
        (
            ["ckpt=embedded:smollm2", "generator=vllm"],
            "vLLM is not installed; run: pip install -r requirements-vllm",
        ),
        (
            ["ckpt=openai:g", "decoding=[warm]", "api.base_url=http://localhost:1/v1"],
            "decoding=warm: unknown",
        ),
    ],
)
def test_what_cannot_answer_is_said_before_any_work(tmp_path, monkeypatch, overrides, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for check in ("check=true", "check=false"):
        with pytest.raises(UserError, match=message) as caught:
            evaluation(*overrides, check, f"output={tmp_path}/r")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_one_line(tmp_path):
    own = ["ckpt=openai:gpt", "n_prompts=2", "api.base_url=http://127.0.0.1:9/v1", "api.retries=0"]
    with pytest.raises(UserError, match="127.0.0.1:9") as caught:
        evaluation(*own, f"output={tmp_path}/r")
    assert "\n" not in str(caught.value)


def test_how_many_processes_a_server_or_vllm_needs(tiny):  # noqa: F811
    for overrides, number in (
        ([f"ckpt=[{tiny},openai:x]", "nproc=2"], 2),
        (["ckpt=openai:x", "nproc=2"], 1),
        ([f"ckpt={tiny}", "nproc=2", "generator=vllm"], 1),
    ):
        settings, checkpoints = settings_of(*overrides)
        assert engines.processes_of(checkpoints, settings) == number


def test_checkpoints_of_one_name_are_told_apart(tmp_path):
    paths = [save_tiny(tmp_path / place / name) for place, name in (("c", "x-3"), ("a", "x"), ("b", "x"))]
    _, checkpoints = settings_of(f"ckpt=[{','.join(paths)}]")
    assert [c.name for c in checkpoints] == ["x-3", "x", "x-4"]


# --- prompts that do not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gemma3"])
@pytest.mark.parametrize("n_samples", [0, 1])
def test_a_model_shorter_than_a_prompt_with_its_shots_is_one_line(tmp_path, family, n_samples):
    folder = save_family(tmp_path / "model", family)
    rows = []
    for i in range(30):
        yes, no = {"class": "1", "text": "Yes"}, {"class": "2", "text": "No"}
        responses_ = [{"text": "Yes. " * 5, "belief": yes}, {"text": "No. " * 5, "belief": no}]
        rows.append({"prompt": f"Good {i}?", "responses": responses_, "belief_probs": [0, 1, 0, 0, 0, 0]})
    path = write(tmp_path / "rows.jsonl", *rows)
    own = [
        f"ckpt={folder}",
        f"datasets=[{path}]",
        "n_prompts=2",
        "eval_fraction=0.2",
        f"n_samples={n_samples}",
    ]
    own += ["max_new_tokens=4", f"output={tmp_path}/r"]
    with pytest.raises(
        UserError, match="few_shot=20: with its shots, .* 512; set few_shot=19 or less"
    ) as caught:
        evaluation(*own, "few_shot=20")
    assert "\n" not in str(caught.value)
    evaluation(*own, "few_shot=2")
