"""The page of computed rewards: its table, its prompts, what answers miss, and texts that would break it."""

import html
import json
import re
import subprocess

import pytest
from data_helpers import write
from helpers import json_lines, save_tiny
from report_helpers import HOSTILE, write_evaluation
from reward_helpers import NAMES, evaluate_models, mean, rewards_by_hand, row
from test_report_page import CHROMIUM, Elements

from reporting.page import html_page
from reporting.prompt_rewards import prompt_rewards
from reporting.reading import read_story
from reporting.writing import write_page
from utils import UserError


def test_the_page_has_the_table_the_differences_the_prompts_and_what_is_missed(tmp_path):
    models = [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate(NAMES)]
    file = write(tmp_path / "asked.jsonl", *map(row, range(6)))
    found = evaluate_models(models, file, tmp_path / "report")
    page, text = [(tmp_path / "report" / f"report.{kind}").read_text() for kind in ("html", "md")]
    table, lines = found
    parsed = Elements(page)
    assert "Rewards of sampled responses" in page and "Reward by prompt" in page
    best = max(NAMES, key=lambda name: table["checkpoints"][name]["true_reward"]["value"])
    assert f"<h1>{best} has the highest reward: " in page
    (data,) = [script for script in parsed.scripts if "rewards" in script]
    means = {name: rewards_by_hand(lines, name) for name in NAMES}
    gaps = []
    for of_prompt in data["rewards"]:
        name = f"p{data['prompts'][of_prompt['prompt']].removeprefix('Say ')}"
        assert of_prompt["means"] == {c: pytest.approx(mean(means[c][name])) for c in NAMES}
        gaps.append(of_prompt["means"]["two"] - of_prompt["means"]["base"])
    assert len(gaps) == 6 and gaps == sorted(gaps, reverse=True)
    shown = {(a["c"], a["text"], tuple(a["missed"]), a["reward"]) for a in data["answers"]}
    names = [checkpoint["name"] for checkpoint in data["checkpoints"]]
    expected = [line for line in lines if "response" in line]
    of_lines = {
        (names.index(x["checkpoint"]), x["response"], tuple(x["missed"]), x["reward"]) for x in expected
    }
    assert shown == of_lines
    assert "## Reward by prompt" in text and "## Rewards of sampled responses" in text
    assert any(script.get("target_id") or "doc" in script for script in parsed.scripts)  # the forest plots


def with_rewards(folder, words=""):
    """A made-up evaluation whose answers have rewards."""
    path = folder / "predictions.jsonl"
    lines = json_lines(path)
    for i, line in enumerate(lines):
        line |= {"reward": float(i % 11), "missed": [f"words (at most 3){words}"] if i % 2 else []}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_hostile_constraints_are_data_on_the_page(tmp_path):
    plain = with_rewards(write_evaluation(tmp_path / "plain", num_prompts=4))
    names = ("a" + HOSTILE, "b<b>", "c")
    hostile = with_rewards(
        write_evaluation(tmp_path / "hostile", num_prompts=4, words=HOSTILE, names=names), HOSTILE
    )
    expected = Elements(html_page(read_story([str(plain)])))
    found = Elements(write_page([str(hostile)]).read_text())
    assert found.tags == expected.tags and found.attributes == expected.attributes
    (data,) = [script for script in found.scripts if "rewards" in script]
    missed = [text for answer in data["answers"] for text in answer["missed"]]
    assert missed and all(text == f"words (at most 3){HOSTILE}" for text in missed)
    markdown = (tmp_path / "hostile" / "report.md").read_bytes().decode()
    assert not any("<" in line for line in markdown.splitlines() if not line.startswith("    "))


def test_fields_that_are_no_rewards_are_named(tmp_path):
    folder = with_rewards(write_evaluation(tmp_path / "report", num_prompts=2))
    path = folder / "predictions.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    for field, value in (("reward", "much"), ("missed", [1])):
        path.write_text(json.dumps({**json.loads(first), field: value}) + "\n" + "".join(others))
        with pytest.raises(UserError, match=f"line 1: {field} must be"):
            read_story([str(folder)])


def test_prompts_are_sorted_by_what_the_last_checkpoint_gains_on_the_first(tmp_path):
    folder = with_rewards(write_evaluation(tmp_path / "report", num_prompts=5))
    (evaluated,) = read_story([str(folder)]).evaluations
    gains = [of_prompt.gap("gdpo", "base") for of_prompt in prompt_rewards(evaluated.answers)]
    assert len(gains) == 5 and gains == sorted(gains, reverse=True)


BROWSER_TEST = """
<script>
addEventListener("load", () => setTimeout(() => {
  const texts = (css) => [...document.querySelectorAll(css)].map((e) => e.textContent);
  const set = (css, value) => {
    const input = document.querySelector(css);
    input.value = value; input.dispatchEvent(new Event("input", {bubbles: true}));
  };
  set("#e1-rewards input", "QUESTION 2?");
  const found = texts("#e1-rewards .question h4").length, dots = texts("#e1-rewards .dot").length;
  set("#e1-answers select[name=met]", "false");
  document.title = JSON.stringify({title: document.title, found, dots,
    marks: [...new Set(texts(".answer .no, .answer .yes, .answer .none"))], images: document.images.length,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth});
  document.body.replaceChildren();  // --dump-dom cannot write half a surrogate pair
}, 3000));
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_searches_prompts_by_reward_and_shows_what_is_missed(tmp_path):
    folder = write_evaluation(tmp_path / "swepo" / "report", words=HOSTILE, num_prompts=15)
    page = write_page([str(with_rewards(folder, HOSTILE))])
    page.write_bytes(page.read_bytes().replace(b"</body>", BROWSER_TEST.encode() + b"</body>"))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    options += ["--window-size=390,900", f"--user-data-dir={tmp_path / 'profile'}"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *options, *offline, page.as_uri()],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not [line for line in said if "log level" not in line and "ResizeObserver" not in line]
    title = re.search("<title>(.*?)</title>", done.stdout).group(1)
    assert json.loads(html.unescape(title)) == {
        "title": "Grove report: swepo",
        "found": 1,
        "dots": 3,
        "marks": ["✗"],
        "images": 0,
        "wide": 0,
    }
