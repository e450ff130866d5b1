"""The engine `vllm`, by a module that stands in for vLLM."""

import importlib.machinery
import json
import sys
import types

import pytest
from helpers import (
    CPU,
    EOS,
    byte_tokenizer,
    evaluation,
)
from test_generators import GROUPS, settings_of
from test_predictions import asked, cheap_judge, said, tiny  # noqa: F401 - fixtures

from evaluation import answers, engines
from evaluation.predictions import open_predictions
from generation import served_by_vllm
from groups import stop_ids
from utils import UserError


class FakeParams:
    """vLLM's SamplingParams: the fields that it has, and their defaults."""

    DEFAULTS = {
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": None,
        "stop_token_ids": None,
        "max_tokens": 16,
        "detokenize": True,
    }

    def __init__(self, **fields):
        assert set(fields) <= set(self.DEFAULTS)
        fields = {**self.DEFAULTS, **fields}
        assert fields["top_k"] in (0, -1) and fields["top_p"] == fields["repetition_penalty"] == 1.0
        self.temperature, self.seed, self.stops = (
            fields[k] for k in ("temperature", "seed", "stop_token_ids")
        )
        self.max_tokens = fields["max_tokens"]


class FakeLLM:
    """vLLM's LLM with the arguments that it takes; it repeats the prompt's last byte, then ends."""

    made = []

    def __init__(
        self,
        model,
        *,
        skip_tokenizer_init=False,
        trust_remote_code=False,
        tensor_parallel_size=1,
        dtype="auto",
        **more,
    ):
        assert more == {"generation_config": "vllm"}
        self.made.append((model, dtype, tensor_parallel_size))
        self.llm_engine = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=600))
        self.calls = []

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert len(prompts) == len(sampling_params) and use_tqdm is False
        self.calls.append((prompts, sampling_params))
        outputs = []
        for prompt, params in zip(prompts, sampling_params):
            number = params.seed % 3
            ids = [prompt["prompt_token_ids"][-1]] * number + [params.stops[-1]]
            reason = "stop" if len(ids) <= params.max_tokens else "length"
            completion = types.SimpleNamespace(token_ids=ids[: params.max_tokens], finish_reason=reason)
            outputs.append(types.SimpleNamespace(outputs=[completion]))
        return outputs


@pytest.fixture
def fake_vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, FakeParams
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    real = served_by_vllm.importlib.metadata.version
    monkeypatch.setattr(
        served_by_vllm.importlib.metadata, "version", lambda name: "0.33" if name == "vllm" else real(name)
    )
    FakeLLM.made = []


def test_vllm_gets_our_token_ids_and_inherits_no_setting(tmp_path, tiny, fake_vllm):  # noqa: F811
    (tmp_path / "tiny" / "generation_config.json").write_text('{"top_k": 9, "eos_token_id": [5, 257]}')
    settings, checkpoints = settings_of(f"ckpt={tiny}", "generator=vllm", "max_new_tokens=2", "n_samples=3")
    tokenizer = byte_tokenizer()
    with engines.open_generator(checkpoints[0], settings, CPU) as generator:
        with open_predictions(tmp_path / "r", checkpoints, settings, CPU) as made:
            written = answers.respond(generator, "tiny", GROUPS, settings, CPU, made)
        ((prompts, params),) = generator.llm.calls
        identity = generator.identity()
    assert FakeLLM.made == [(tiny, "float32", 1)]
    assert prompts[0] == {"prompt_token_ids": list(tokenizer("Say a")["input_ids"])} and len(prompts) == 6
    assert {p.temperature for p in params} == {1.0} and {p.max_tokens for p in params} == {2}
    assert len({p.seed for p in params}) == 6 and all(0 <= p.seed < 2**31 for p in params)
    assert set(params[0].stops) == {2, 5, EOS} >= set(stop_ids(tokenizer))  # 2: of config.json
    for (prompt, param), response in zip(zip(prompts, params), sum(written["t1"][:2], [])):
        number = param.seed % 3
        assert response.text == tokenizer.decode(prompt["prompt_token_ids"][-1:] * number)
        assert response[:3] == (response.text, "length" if number == 2 else "stop", min(number + 1, 2))
    assert json.loads(json.dumps(identity)) == identity and identity["vllm"] == "0.33"


def test_a_whole_evaluation_by_vllm_takes_class_probabilities_from_our_own_passes(
    tmp_path,
    tiny,  # noqa: F811
    fake_vllm,
):
    quick = [f"ckpt={tiny}", "n_prompts=2", "n_samples=2", "max_new_tokens=4"]
    evaluation(*quick, "generator=vllm", f"output={tmp_path}/vllm")
    evaluation(*quick, f"output={tmp_path}/hf")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("vllm", "hf")]
    cells = [found["checkpoints"]["tiny"]["js_distance_probability"] for found in reports]
    assert cells[0] == cells[1]
    with pytest.raises(UserError, match="by other weights, another engine or other versions"):
        evaluation(*quick, f"output={tmp_path}/vllm")


def test_what_vllm_cannot_take_is_one_line(tmp_path, tiny, fake_vllm, monkeypatch):  # noqa: F811
    long = [f"ckpt={tiny}", "generator=vllm", "n_prompts=2", "max_new_tokens=590", f"output={tmp_path}/r"]
    with pytest.raises(UserError, match="takes .* tokens, but vLLM takes 600; set it to 10 or less"):
        evaluation(*long)
    with pytest.raises(UserError, match="shard=true: vLLM shards by itself"):
        evaluation(*long, "shard=true")

    def fail(*_, **__):
        raise ValueError("no such architecture\nsecond line")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", fail)
    with pytest.raises(UserError, match="is not taken .no such architecture.; set generator=hf"):
        evaluation(*long)
