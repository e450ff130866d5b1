"""The page of a report, made from files alone: its answer, its numbers, and texts that would break it."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from helpers import ROOT, json_lines
from report_helpers import HOSTILE, write_evaluation, write_run

from reporting import curves, sentence
from reporting.charts import library
from reporting.figures import FORMATS
from reporting.gaps import calibrations_of, gaps_of
from reporting.markdown import escaped
from reporting.page import html_page, script_json
from reporting.reading import read_evaluation, read_story
from reporting.writing import write_page
from utils import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
JSD = "js_distance_probability"


class Elements(HTMLParser):
    """The elements of a page and the texts of its JSON scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.texts = [], set(), [], []
        self.inside, self.is_json = "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.inside = tag
        self.is_json = tag == "script" and ("type", "application/json") in attrs

    def handle_endtag(self, tag):
        self.inside, self.is_json = "", False

    def handle_data(self, data):
        if self.is_json:
            self.scripts.append(json.loads(data))
        elif self.inside not in ("script", "style"):
            self.texts.append(data)


def evaluation_at(tmp_path, **options):
    return write_evaluation(tmp_path / "gdpo" / "report", **options)


# --- the answer ---------------------------------------------------------------------------------------------


def changed(evaluation, **changes):
    """The evaluation, its differences with these values."""
    return evaluation._replace(differences=[d._replace(**changes) for d in evaluation.differences])


def test_the_sentence_names_the_best_checkpoint_its_lead_and_what_guessing_gets(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    row = evaluation.results["gdpo"][JSD]
    (lead,) = [d for d in evaluation.differences if (d.a, d.b) == ("gdpo", "sft")]
    guess = evaluation.results[sentence.UNIFORM][JSD]["value"]
    assert sentence.answer_of(evaluation) == (
        f"gdpo has the lowest JSD to the group: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
        f"{-lead.value:.3f} below sft (95% interval of the paired difference [{lead.low:.3f}, "
        f"{lead.high:.3f}], p < 0.001); a uniform guess over a question's options gets {guess:.3f}."
    )


def test_checkpoints_whose_difference_may_be_0_are_not_told_apart(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    said = sentence.answer_of(changed(evaluation, low=-0.2, high=0.01))
    assert "but it cannot be told apart from sft" in said and "[-0.200, 0.010], holds 0" in said


def test_a_difference_that_three_decimals_do_not_show_is_no_lead(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    said = sentence.answer_of(changed(evaluation, value=-2e-6, low=-3e-6, high=-1e-6))
    assert "and sft has the same to three decimals; a uniform guess" in said


def test_a_difference_taken_the_other_way_is_turned(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    turned = [
        d._replace(a=d.b, b=d.a, value=-d.value, low=-d.high, high=-d.low) for d in evaluation.differences
    ]
    assert sentence.answer_of(evaluation._replace(differences=turned)) == sentence.answer_of(evaluation)


def test_where_guessing_is_better_the_sentence_says_so(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    lucky = {JSD: {"value": 0.01, "low": 0.0, "high": 0.02, "n": 40}}
    results = {**evaluation.results, sentence.UNIFORM: lucky}
    assert "gets 0.010, which is better than every checkpoint." in sentence.answer_of(
        evaluation._replace(results=results)
    )


def test_one_checkpoint_has_its_number_and_none_has_no_answer(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    alone = evaluation._replace(results={"sft": evaluation.results["sft"]}, settings={})
    assert sentence.answer_of(alone).startswith("sft has a JSD to the group of 0.")
    nothing = alone._replace(results={"sft": {}, "dpo": {}})
    assert sentence.answer_of(nothing) == "sft and dpo: there is no number that says which is better."
    wins = {"win_rate": {"value": 0.6, "low": None, "high": None, "n": 1}}
    task = alone._replace(results={"sft": wins}, settings={"baseline": "gpt"})
    assert sentence.answer_of(task) == "sft has a win rate against gpt of 0.600."


# --- the numbers --------------------------------------------------------------------------------------------


def test_the_page_and_the_markdown_have_the_numbers_of_report_json(tmp_path):
    folder = evaluation_at(tmp_path)
    before = (folder / "report.json").read_bytes()
    assert write_page([str(folder)]) == folder / "report.html"
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    found = json.loads(before)
    for row in found["checkpoints"].values():
        for summary in row.values():
            value, low, high = (f"{summary[key]:.3f}" for key in ("value", "low", "high"))
            assert f"{value} [{low}, {high}]" in text and f"{value} [{low}, {high}]" in page
            assert f'<span class="value">{value}</span>' in page or "class_mass" in row
    for difference in found["differences"]:
        assert f"| {difference['a']} - {difference['b']} " in text
    for name in ("report.json", "distributions.jsonl", "predictions.jsonl"):
        assert read_evaluation(folder).hashes[name] in page
    assert found["settings"]["command"] in page and "0123456789abcdef" in page
    assert (folder / "report.json").read_bytes() == before


def test_gaps_by_question_average_to_the_reports_jsd(tmp_path):
    evaluation = read_evaluation(evaluation_at(tmp_path))
    gaps = gaps_of(evaluation.shares)
    for name in ("base", "sft", "gdpo"):
        mean = sum(gaps[name].values()) / len(gaps[name])
        assert mean == pytest.approx(evaluation.results[name][JSD]["value"])
    for calibration in calibrations_of(evaluation.shares):
        assert len(calibration.points) == 4 * len(evaluation.shares)  # the options that a prompt offers


def test_every_question_and_answer_is_on_the_page_with_the_groups_shares(tmp_path):
    folder = evaluation_at(tmp_path)
    page = Elements(html_page(read_story([str(folder)])))
    (data,) = [script for script in page.scripts if "questions" in script]
    lines = json_lines(folder / "distributions.jsonl")
    for question, line in zip(data["questions"], lines, strict=True):
        assert data["prompts"][question["prompt"]] == line["prompt"]
        offered = [i for i, is_offered in enumerate(line["offered"]) if is_offered]
        assert question["group"] == [line["belief_probs"][i] for i in offered]
        assert question["models"]["sft"] == [line["checkpoints"]["sft"][i] for i in offered]
    answers = json_lines(folder / "predictions.jsonl")
    assert [answer["text"] for answer in data["answers"]] == [line["answer"] for line in answers]
    verdicts = [line["belief_answer_consistent"] for line in answers]
    assert [answer.get("verdict") for answer in data["answers"]] == verdicts


def test_an_evaluation_shows_the_curves_of_the_runs_that_it_evaluated(tmp_path):
    runs = [str(write_run(tmp_path / name)) for name in ("base", "sft", "gdpo")]
    write_evaluation(tmp_path / "gdpo" / "report", sources=runs)
    story = read_story([str(tmp_path / "gdpo")])
    assert [run.name for run in story.runs] == ["base", "sft", "gdpo"]
    panels = [panel.name for panel in curves.panels_of(story.runs)]
    assert panels == ["margins", "margins-train", "jsd", "loss"]
    run = story.runs[0]
    logged = json_lines(tmp_path / "base" / "metrics.jsonl")
    minority = [line["rewards_eval/margins_minority"] for line in logged if "loss/eval" in line]
    assert list(run.curves["rewards_eval/margins_minority"].y) == minority
    assert "58f4ace014dfaf94" in html_page(story) and "lr: 2.0e-5" in html_page(story)


def test_a_run_that_is_training_shows_its_curves_so_far(tmp_path):
    run = write_run(tmp_path / "gdpo", num_steps=3, torn=True)
    page = write_page([str(run)])
    assert page == run / "curves" / "report.html"
    assert "Training of gdpo" in page.read_text()
    found = json.loads((run / "curves" / "report.json").read_text())
    assert found["runs"][str(run)]["loss/train"]["examples"] == 48
    assert write_page([str(run)]) == page  # again: a page of ours may be replaced


def test_several_evaluations_are_told_side_by_side_and_nothing_of_theirs_is_overwritten(tmp_path):
    one = write_evaluation(tmp_path / "a" / "report", num_prompts=4)
    two = write_evaluation(tmp_path / "b" / "report", num_prompts=6)
    page = write_page([str(tmp_path / "a"), str(two / "report.json")])
    assert page == tmp_path / "compared" / "report.html"
    found = json.loads((tmp_path / "compared" / "report.json").read_text())
    assert list(found["evaluations"]) == [str(one), str(two)]
    assert (
        found["evaluations"][str(two)]["checkpoints"]
        == json.loads((two / "report.json").read_text())["checkpoints"]
    )
    with pytest.raises(UserError, match="is another evaluation's; give another folder by --output"):
        write_page([str(one)], two)
    assert json.loads((two / "report.json").read_text())["settings"]["scope"].startswith("6 prompts")


def test_every_figure_is_there_as_png_and_svg(tmp_path, figures):
    runs = [str(write_run(tmp_path / name, num_steps=10)) for name in ("_base", "$x^{$")]
    folder = evaluation_at(tmp_path, names=("_base", "$x^{$", "a" + HOSTILE), words=HOSTILE, sources=runs)
    write_page([str(folder)])
    names = {"means", "differences", "calibration", "distributions"}
    names |= {f"training-{panel}" for panel in ("margins", "margins-train", "jsd", "loss")}
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in FORMATS}
    drawn = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    write_page([str(folder)])
    assert drawn == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert {f"figures/{name}.png" for name in names} == set(
        re.findall(r"\]\((figures/.*?)\)", (folder / "report.md").read_text())
    )


# --- texts are data -----------------------------------------------------------------------------------------


def test_hostile_texts_are_data_on_the_page(tmp_path):
    plain = write_evaluation(tmp_path / "plain", num_prompts=4)
    hostile = write_evaluation(
        tmp_path / "hostile", num_prompts=4, words=HOSTILE, names=("a" + HOSTILE, "b<b>", "c")
    )
    expected = Elements(html_page(read_story([str(plain)])))
    written = write_page([str(hostile)])
    page = written.read_text()
    found = Elements(page)
    assert found.tags == expected.tags  # no element more, of whatever name
    assert found.attributes == expected.attributes
    (data,) = [script for script in found.scripts if "questions" in script]
    assert all(prompt.endswith(HOSTILE) for prompt in data["prompts"])
    assert all(answer["text"].endswith(HOSTILE) for answer in data["answers"])
    assert data["checkpoints"][0]["name"] == "a" + HOSTILE
    assert any("{{ 7 * 7 }}" in text for text in found.texts)
    assert "49" not in {text.strip() for text in found.texts}
    for block in re.findall(r'<script type="application/json".*?>(.*?)</script>', page, re.DOTALL):
        assert not set(block) & set("<>&`\u2028\u2029'")


@pytest.mark.parametrize("text", [HOSTILE, "</SCRIPT >", "<!--<script>", "\u2028", "'`\\"])
def test_json_for_scripts_reads_back_as_it_was(text):
    made = script_json({"text": text, text: [1.5, None, True]})
    assert json.loads(made) == {"text": text, text: [1.5, None, True]}
    assert not set(made) & set("<>&`'\u2028\u2029\n")


def test_hostile_texts_are_no_markup_in_markdown(tmp_path):
    folder = evaluation_at(tmp_path, num_prompts=3, words=HOSTILE, names=("a|b", "x" + HOSTILE, "![i](j)"))
    write_page([str(folder)])
    text = (folder / "report.md").read_bytes().decode()
    assert not any("<" in line for line in text.splitlines() if not line.startswith("    "))  # code
    for table in re.findall(r"^\|.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE):
        assert len({len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert "![i](j)" not in text
    assert escaped("a [0.1, 0.2] `b`\n| *c*") == "a [0.1, 0.2] \\`b\\` \\| \\*c\\*"


def test_the_page_loads_nothing():
    template = (ROOT / "reporting" / "template" / "report.html").read_text()
    assert "http" not in template and "</script" not in library().lower()
    for name in ("page.css", "page.js"):
        text = (ROOT / "reporting" / "template" / name).read_text()
        assert "http" not in text and "innerHTML" not in text and "@import" not in text


# --- in a browser ------------------------------------------------------------------------------------------


BROWSER_TEST = """
<script>
addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement;
  const texts = (css) => [...document.querySelectorAll(css)].map((e) => e.textContent);
  const search = document.querySelector("#e1-questions input");
  const before = texts(".question h4").length;
  search.value = "QUESTION 2?"; search.dispatchEvent(new Event("input", {bubbles: true}));
  const verdict = document.querySelector("#e1-answers select[name=verdict]");
  verdict.value = "false"; verdict.dispatchEvent(new Event("input", {bubbles: true}));
  document.title = JSON.stringify({
    title: document.title, drawn: Number(root.dataset.drawn), before, found: texts(".question h4").length,
    marks: [...new Set(texts(".answer .no, .answer .yes, .answer .none"))],
    wide: root.scrollWidth - root.clientWidth, images: document.images.length});
  document.body.replaceChildren();  // --dump-dom cannot write half a surrogate pair
}, 3000));
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_opens_the_page_without_an_error_searches_it_and_runs_no_foreign_script(tmp_path):
    runs = [str(write_run(tmp_path / name, num_steps=8)) for name in ("base", "sft", "gdpo")]
    folder = write_evaluation(
        tmp_path / "gdpo" / "report",
        num_prompts=15,
        words=HOSTILE,
        sources=runs,
        names=("a", "b", "c" + HOSTILE),
    )
    page = write_page([str(folder)])
    page.write_bytes(page.read_bytes().replace(b"</body>", BROWSER_TEST.encode() + b"</body>"))
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=390,900",
    ]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [CHROMIUM, *options, *offline, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    said = [
        line for line in done.stderr.splitlines() if ":CONSOLE" in line and "setting log level" not in line
    ]
    assert said == []
    title = re.search("<title>(.*?)</title>", done.stdout).group(1)
    assert json.loads(html.unescape(title)) == {
        "title": "Grove report: gdpo",
        "drawn": 1 + 3 + 4,
        "before": 12,
        "found": 1,
        "marks": ["✗"],
        "wide": 0,
        "images": 0,
    }
