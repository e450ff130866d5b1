"""The model card: front matter that the hub reads, and the same facts for people.

Contract: a Story goes in, a text comes out. Whatever names data sets, models and licences have, the front
matter stays valid YAML and nothing in the body is markup but ours. Paths of this machine and secrets stay
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import yaml

from environment import VERSION
from handoff.config import ExportSettings
from handoff.papers import Paper, bibtex, papers_of
from handoff.place import MARK
from handoff.story import SIZES, Story, summaries_of
from reporting.facts import in_words
from reporting.markdown import escaped
from reporting.tables import Table, as_markdown, as_number, title_of
from reporting.words import TITLES
from utils import without_secrets

ON_HUB = re.compile(
    r"(?!(opinions|outputs)/)[\w-][\w.-]*/[\w-][\w.-]*"
)  # a name of the hub's, with its owner
FILE = re.compile(r"\.(jsonl?|csv|parquet|gz|zst|pt|txt)$")
OWN = r"""@software{grove,
  title = {Grove: preference learning on groups},
  author = {{The Grove authors}},
  version = {VERSION}
}"""
BELIEFS = (
    "A response of the training data is a belief followed by an answer, `4<Too little>We ought to ...`: a "
    "class token, the option's words, and the text."
)


def card_of(story: Story, settings: ExportSettings) -> str:
    """The text of README.md."""
    front = yaml.safe_dump(_front(story, settings), allow_unicode=True, sort_keys=False, width=1_000)
    body = "\n\n".join(_body(story, settings))
    return without_secrets(f"---\n{front}---\n\n{body}\n")


def shown_name(name: str) -> str:
    """A data set or model as others may know it: a path of this machine by its last part."""
    path = PurePath(name)
    is_path = path.is_absolute() or name.startswith((".", "~")) or FILE.search(name) is not None
    return path.name if is_path and path.name else name


# --- front matter -------------------------------------------------------------------------------------------


def _front(story: Story, settings: ExportSettings) -> dict[str, object]:
    """What the hub reads; keys without a value are left out."""
    data_sets = [name.split("@")[0].split(":")[0] for name in _data_sets(story)]
    base = settings.base_model or story.stages[-1]
    front = {
        "library_name": "transformers" if settings.merge else "peft",
        "pipeline_tag": "text-generation",
        "base_model": base if _is_on_hub(base) else None,
        "datasets": [name for name in dict.fromkeys(data_sets) if _is_on_hub(name)],
        "license": settings.license,
        "license_name": settings.license_name,
        "license_link": settings.license_link,
        "tags": [MARK, "preference-learning", *([story.loss] if story.loss else [])],
        "model-index": _index(story),
    }
    return {key: value for key, value in front.items() if value}


def _is_on_hub(name: str) -> bool:
    return ON_HUB.fullmatch(name) is not None and FILE.search(name) is None


def _data_sets(story: Story) -> list[str]:
    return list(dict.fromkeys(size.data_set for size in story.sizes))


def _index(story: Story) -> list[dict[str, object]]:
    """The evaluation, as the hub's tables have it."""
    found = summaries_of(story)
    if not found:
        return []
    evaluated = story.evaluation.settings
    names = [shown_name(name) for name in _texts(evaluated.get("datasets"))] or ["unnamed"]
    metrics = [
        {"type": metric, "name": _title(story, metric), "value": summary["value"]}
        for metric, summary in found.items()
    ]
    data_set = {"type": names[0], "name": ", ".join(names), "split": str(evaluated.get("split") or "all")}
    result = {"task": {"type": "text-generation"}, "dataset": data_set, "metrics": metrics}
    return [{"name": story.name, "results": [result]}]


def _texts(value: object) -> list[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, list) else []


def _title(story: Story, metric: str) -> str:
    """A metric's name for readers, with the judge that it is of."""
    kind = next((kind for kind, titles in TITLES.items() if metric in titles), "")
    if not kind:
        return metric
    return title_of(metric, kind, story.evaluation.n_samples, story.evaluation.judges)


# --- body ---------------------------------------------------------------------------------------------------


def _body(story: Story, settings: ExportSettings) -> Iterator[str]:
    yield f"# {escaped(story.name)}"
    yield _what(story, settings)
    yield "## Use"
    yield _use(settings)
    if story.has_beliefs:
        yield BELIEFS
    if story.sizes:
        yield "## Data"
        rows = [
            [shown_name(size.data_set), size.split, *(str(size.counts[key]) for key in SIZES)]
            for size in story.sizes
        ]
        yield _table(["data set", "split", *SIZES], rows)
    if story.loss:
        yield "## Training"
        yield f"Loss: {escaped(story.loss)}{_by_papers(story)}."
        yield _pairs({**{f"loss.{key}": value for key, value in story.loss_keys.items()}, **story.keys})
    yield from _evaluation(story)
    yield "## Versions"
    yield _pairs(story.versions)
    yield "## Licence"
    yield _licence(settings)
    yield "## Citation"
    own = OWN.replace("{VERSION}", f"{{{VERSION}}}")
    entries = [*(bibtex(paper) for paper in _papers(story)), own]
    yield "```bibtex\n" + "\n\n".join(entries) + "\n```"


def _what(story: Story, settings: ExportSettings) -> str:
    """What it is and where it comes from, in a sentence."""
    *runs, base = story.stages
    base = escaped(shown_name(settings.base_model or base))
    kind = "A causal language model" if settings.merge else f"Low-rank adapters (LoRA) of {base}"
    if story.loss is None:
        return f"{kind}, handed on as it was: {base}."
    way = f", after the runs {', '.join(map(escaped, reversed(runs)))}" if runs else ""
    origin = f" from {base}" if settings.merge else ""
    return f"{kind}, trained with Grove by the loss {escaped(story.loss)}{origin}{way}."


def _use(settings: ExportSettings) -> str:
    """How to open it. A repository's name needs no escape: `push` takes plain ones alone."""
    place = settings.push or "path/to/this/folder"
    if settings.merge:
        lines = [
            "from transformers import pipeline",
            "",
            f'generator = pipeline("text-generation", model="{place}")',
            'print(generator("...", max_new_tokens=64))',
        ]
    else:
        lines = [
            "from peft import AutoPeftModelForCausalLM",
            "from transformers import AutoTokenizer",
            "",
            f'model = AutoPeftModelForCausalLM.from_pretrained("{place}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _papers(story: Story) -> tuple[Paper, ...]:
    return papers_of(story.loss or "", story.loss_keys)


def _by_papers(story: Story) -> str:
    found = [f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" for paper in _papers(story)]
    return f" ({', '.join(found)})" if found else ""


def _evaluation(story: Story) -> Iterator[str]:
    found = summaries_of(story)
    if not found:
        return
    yield "## Evaluation"
    scope = escaped(_scope(story.evaluation.settings))
    yield f"On {scope}. Means with 95% bootstrap intervals over questions."
    rows = []
    for metric, summary in found.items():
        has_interval = summary["low"] is not None and summary["high"] is not None
        interval = f"[{as_number(summary['low'])}, {as_number(summary['high'])}]" if has_interval else "-"
        rows.append([_title(story, metric), as_number(summary["value"]), interval, str(summary["n"])])
    yield _table(["metric", "value", "95% interval", "n"], rows)


def _scope(evaluated: Mapping[str, object]) -> str:
    """What was asked, as far as the report says it."""
    names = ", ".join(map(shown_name, _texts(evaluated.get("datasets"))))
    parts = [
        f"{evaluated[key]} {key}" for key in ("prompts", "questions") if isinstance(evaluated.get(key), int)
    ]
    if isinstance(evaluated.get("task"), str):
        parts.append(f"task {evaluated['task']}")
    if names:
        parts.append(f"{names} ({evaluated.get('split')})")
    return ", ".join(parts) or "prompts that the report does not name"


def _licence(settings: ExportSettings) -> str:
    if settings.license is None:
        return "None was given at export. Those of the base model and of the data hold."
    given = [settings.license, settings.license_name, settings.license_link]
    return escaped(", ".join(filter(None, given))) + ". Those of the base model and of the data hold too."


def _pairs(values: Mapping[str, object]) -> str:
    return _table(["", ""], [[key, in_words(value)] for key, value in values.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped_rows = [[escaped(cell) for cell in row] for row in rows]
    return as_markdown(Table("", list(header), escaped_rows))
