"""A checkpoint that train.py wrote is read by lm-eval: its log-likelihoods are those that this project gives.

Runs where `lm_eval` is installed, without network: the task is a local file.
"""

import importlib.util
import sys

import pytest
import torch
from data_helpers import write
from helpers import byte_tokenizer, command, json_lines, save_tiny
from transformers import AutoModelForCausalLM

import forest
import models

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="needs lm-eval")

QUESTIONS = [
    {"question": "The sky is", "options": [" blue", " made of tin"], "answer": 0},
    {"question": "Two and two is", "options": [" five and more", " four"], "answer": 1},
    {"question": "A week has", "options": [" seven days", " nine days"], "answer": 0},
]
TASK = """\
task: grove_tiny
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_target: answer
doc_to_choice: options
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of train.py on a tiny model."""
    folder = tmp_path_factory.mktemp("run")
    model = save_tiny(folder / "tiny")
    rows = [{"prompt": f"Say {i}", "responses": [{"text": f"It is {i}."}]} for i in range(4)]
    path = write(folder / "rows.jsonl", *rows)
    command(
        *(sys.executable, "train.py", "loss=sft", f"model.name_or_path={model}", f"datasets=[{path}]"),
        *("exp_name=sft", f"output_dir={folder}", "n_examples=4", "n_epochs=null", "batch_size=2"),
        *("do_first_eval=false", "wandb.enabled=false"),
    )
    return folder / "sft"


def test_lm_eval_gives_the_log_likelihoods_of_this_project(run, tmp_path):
    (tmp_path / "tasks").mkdir()
    path = write(tmp_path / "questions.jsonl", *QUESTIONS)
    (tmp_path / "tasks" / "grove_tiny.yaml").write_text(TASK.format(path=path))
    command(
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "2"),
        *("--model_args", f"pretrained={run}/latest,dtype=float32", "--tasks", "grove_tiny"),
        *("--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_DATASETS_CACHE=str(tmp_path / "cache"),
    )
    (samples,) = (tmp_path / "out").rglob("samples_grove_tiny_*.jsonl")
    policy = models.Scorer(AutoModelForCausalLM.from_pretrained(run / "latest").eval(), "sdpa")
    for sample in json_lines(samples):
        question, options = sample["doc"]["question"], sample["doc"]["options"]
        tree = forest.TokenTree(ids_of(question), (), tuple(map(ids_of, options)))
        with torch.no_grad():
            ours = models.score_one_by_one(policy, tree)
        theirs = [float(response[0][0]) for response in sample["resps"]]
        assert theirs == pytest.approx([float(logp) for logp in ours], rel=1e-4)


def ids_of(text):
    return tuple(byte_tokenizer()(text)["input_ids"])
