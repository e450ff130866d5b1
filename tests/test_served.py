"""Generation by a server: seeds, finishes and faults with a scripted one, and a real one end to end."""

import logging
import math

import numpy as np
import pytest
import torch
from chat_helpers import KEY
from helpers import evaluation
from servers import echo, fails, in_turn, likely, refuses, says, server
from test_judges import asks
from test_predictions import cheap_judge  # noqa: F401 - a fixture
from transformers import AutoModelForCausalLM, AutoTokenizer

import chat
from chat import workers
from evaluation.judges import ChatJudge, chat_judge
from generation import Draw, ServedGenerator, Written, decoding_of
from groups import Group, Response, with_shots
from utils import UserError

GREEDY, WHOLE = decoding_of("greedy"), decoding_of("t1")
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)


def group(prompt, name="p"):
    return Group(name, prompt, (Response("a"),), where=f"file.jsonl, row {name}")


def generator(url, **how):
    endpoint = chat.Endpoint(url, KEY, **{"concurrency": 3, "retries": 2, "timeout": 30.0, **how})
    return ServedGenerator(endpoint, "model", 16)


def written(engine, prompts, draws, decoding=WHOLE, seed=0):
    """What an engine writes, by its draws; each draw once."""
    texts: dict[Draw, Written] = {}

    def done(draw, response):
        assert draw not in texts
        texts[draw] = response

    engine.write(prompts, draws, decoding, seed, done)
    return texts


def draws_of(prompts, numbers):
    return [Draw(prompt, number) for prompt in range(prompts) for number in range(numbers)]


# --- a scripted server --------------------------------------------------------------------------------------


def test_a_text_is_a_message_of_the_user_and_messages_stay_as_they_are():
    with server() as s:
        texts = written(generator(s.url), [group("Say it."), group(TALK)], draws_of(2, 1))
    assert texts[Draw(0, 0)] == Written("you said: Say it.", "stop", 3, 7)
    assert texts[Draw(1, 0)] == Written("you said: Bye", "stop", 3, 7)
    asked = sorted((asked.body for asked in s.asked), key=lambda body: len(body["messages"]))
    assert [body["messages"] for body in asked] == [[{"role": "user", "content": "Say it."}], TALK]
    for body in asked:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("model", 16, 1.0)


def test_a_seed_is_a_function_of_seed_prompt_and_number_alone():
    def seeds(prompts, draws, seed=0):
        with server() as s:
            written(generator(s.url), prompts, draws, seed=seed)
        return {(asked.content, asked.body["seed"]) for asked in s.asked}

    prompts = [group("a"), group("b")]
    all_seeds = seeds(prompts, draws_of(2, 3))
    assert len({seed for _, seed in all_seeds}) == 6
    assert all(0 <= seed < 2**31 for _, seed in all_seeds)
    assert seeds(prompts[::-1], draws_of(2, 3)[::-1]) == all_seeds
    assert seeds([group("b")], [Draw(0, 2)]) < all_seeds
    assert not seeds(prompts, draws_of(2, 3), seed=1) & all_seeds


@pytest.mark.parametrize(
    "answer,expected",
    [
        (says("half", finish="length"), Written("half", "length", 3, 7)),
        (says("done", finish="stop"), Written("done", "stop", 3, 7)),
        (refuses("No."), Written("No.", "filtered", 3, 7)),
        (says(None, finish="content_filter"), Written("", "filtered", 3, 7)),
    ],
)
def test_a_finish_is_what_the_server_says(answer, expected):
    with server(lambda asked: answer) as s:
        assert written(generator(s.url), [group("a")], [Draw(0, 0)]) == {Draw(0, 0): expected}


def test_all_others_are_written_before_it_is_said_what_got_no_reply():
    def script(asked):
        return fails(500) if asked.content == "p1" else echo(asked)

    prompts = [group(f"p{i}") for i in range(8)]
    texts = {}
    with server(script) as s:
        with pytest.raises(UserError, match="1 of 8 requests got no reply .* run the same command again"):
            generator(s.url).write(prompts, draws_of(8, 1), GREEDY, 0, texts.__setitem__)
    assert sorted(draw.prompt for draw in texts) == [0, 2, 3, 4, 5, 6, 7]


def test_what_was_written_is_not_asked_again_by_one_generator():
    def script(asked):
        return fails(500) if asked.content == "p1" and asked.attempt < 3 else echo(asked)

    prompts = [group(f"p{i}") for i in range(8)]
    with server(script) as s:
        engine = generator(s.url)
        with pytest.raises(UserError):
            written(engine, prompts, draws_of(8, 1))
        assert len(written(engine, prompts, draws_of(8, 1))) == 8
    assert s.by_content == {f"p{i}": 4 if i == 1 else 1 for i in range(8)}


@pytest.mark.parametrize("decoding,is_told", [(WHOLE, True), (GREEDY, False)])
def test_a_server_that_does_not_sample_is_told_of(caplog, decoding, is_told):
    logging.getLogger("grove").propagate = True
    with server() as s:
        written(generator(s.url), [group("a"), group("b")], draws_of(2, 3), decoding)
    assert ("says the same in every sample" in caplog.text) == is_told


@pytest.mark.parametrize("prompt", ["", " \n", [{"role": "user", "content": ""}]])
def test_an_empty_prompt_is_one_line_before_anything_is_asked(prompt):
    with server() as s:
        with pytest.raises(UserError, match="file.jsonl, row p: the prompt is empty"):
            written(generator(s.url), [group("a"), group(prompt)], draws_of(2, 1))
    assert s.count == 0


def test_identity_names_server_and_model_and_no_secret():
    endpoint = chat.Endpoint("http://user:pa55word@host/v1/", KEY)
    identity = ServedGenerator(endpoint, "gpt", 16).identity()
    assert identity == {"server": "http://host/v1", "model": "gpt", "max_new_tokens": 16}


def test_class_probabilities_are_those_of_the_first_token():
    likelihoods = {"4": math.log(0.5), " 4": math.log(0.125), "3": math.log(0.25), "The": math.log(0.1)}
    with server(lambda asked: likely("4", likelihoods)) as s:
        probabilities = generator(s.url).class_logprobs([group("a"), group("b")], ["3", "4", "5"])
    assert probabilities == [pytest.approx({"3": 0.25, "4": 0.625, "5": 0.0})] * 2
    assert s.count == 2
    body = s.asked[0].body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert body["temperature"] == 1


@pytest.mark.parametrize(
    "script",
    [echo, in_turn(fails(400, "logprobs is not supported")), in_turn(fails(403, "not allowed: logprobs"))],
)
def test_a_server_without_log_probs_gives_no_class_probabilities(script):
    with server(script) as s:
        assert generator(s.url).class_logprobs([group(f"p{i}") for i in range(9)], ["3", "4"]) is None
    assert s.count <= 2


@pytest.mark.parametrize("offers_logprobs", [True, False])
def test_no_reply_is_asked_for_again_where_a_server_left_in_the_middle(tmp_path, offers_logprobs):
    def answer(request):
        if gone and len(served.answered) >= 3:
            return fails(401)
        return likely("4", {"4": -0.5, "5": -1.5}) if offers_logprobs else says("4<Somewhat good job>Fine.")

    gone = [True]
    quick = ["n_prompts=4", "n_samples=2", "api.concurrency=1", f"output={tmp_path}/r"]
    with server(answer) as served:
        with pytest.raises(UserError, match="the key was refused"):
            evaluation("ckpt=openai:gpt", f"api.base_url={served.url}", *quick)
        gone.clear()
        evaluation("ckpt=openai:gpt", f"api.base_url={served.url}", *quick)
    assert len(served.answered) == 4 * 2 + (4 if offers_logprobs else 1)
    assert not (tmp_path / "r" / "unfinished").exists()


def test_no_prompts_and_no_draws_ask_nothing():
    with server() as s:
        assert written(generator(s.url), [], []) == {}
        assert generator(s.url).class_logprobs([], ["3"]) == []
    assert s.count == 0


# --- a real one ---------------------------------------------------------------------------------------------

QUESTIONS = ["What is the capital of France?", "Name a color.", [{"role": "user", "content": "Say hello."}]]


@pytest.fixture
def real(real_server):
    endpoint = chat.Endpoint(real_server.url, "none", concurrency=2, retries=1)
    return ServedGenerator(endpoint, real_server.model, 8)


def greedy_text(folder, messages, max_new_tokens):
    """What transformers itself writes for a chat prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        whole = model.generate(ids, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_real_server_writes_greedily_what_the_model_itself_would(real, real_server):
    prompts = [group(question) for question in QUESTIONS]
    texts = written(real, prompts, draws_of(3, 1), GREEDY)
    assert len(texts) == 3 and all(0 < response.tokens <= 8 for response in texts.values())
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    assert texts[Draw(0, 0)].text == greedy_text(real_server.model, messages, 8)
    assert texts[Draw(0, 0)].finish in ("stop", "length")
    assert real.counts.asked == 3 and real.counts.failed == 0


def test_a_real_server_samples_after_solved_examples(real):
    donors = [
        Group(str(i), f"<Q>Is {i} even?<A>", (Response("Yes." if i % 2 == 0 else "No."),)) for i in range(6)
    ]
    (prompt,) = with_shots([group("<Q>Is 8 even?<A>")], donors, 3, seed=0)
    texts = written(real, [prompt], draws_of(1, 4), decoding_of("t2"))
    assert len({response.text for response in texts.values()}) > 1
    assert {response.finish for response in texts.values()} <= {"stop", "length"}
    assert real.counts.prompt_tokens > 40  # the examples stand in the prompt


def test_a_real_server_without_log_probs_gives_no_class_probabilities(real):
    assert real.class_logprobs([group("Answer with a digit.")], ["0", "1"]) is None


def test_a_real_server_says_that_it_has_no_such_model(real_server):
    endpoint = chat.Endpoint(real_server.url, "none", retries=0)
    with pytest.raises(UserError, match="model nothing: "):
        written(ServedGenerator(endpoint, "nothing", 4), [group("a")], [Draw(0, 0)])


def test_a_real_model_judges_and_is_counted(real_server, monkeypatch):
    monkeypatch.setattr(chat_judge, "REPLY_TOKENS", 12)
    judge = ChatJudge(chat.Endpoint(real_server.url, "none", concurrency=2), real_server.model)
    beliefs = asks(judge, "voices", ["It went well.", "It went badly."])
    pairs = asks(judge, "preferences", ["Blue."])
    scores = asks(judge, "scores", ["Blue."])
    assert {*beliefs, *pairs, *scores} <= {None, True, False, *np.arange(0, 10.5, 0.25)}
    counts = judge.counts()
    assert counts["asked"] == 5 and counts["failed"] == 0 and counts["completion_tokens"] > 0
    replies_none = beliefs.count(None) + scores.count(None)
    assert counts["unparsable"] >= replies_none
