"""The page of the opinions' experiment: Markdown tables and figures, of the results' file alone.

Contract: the same file gives the same page. Names, prompts and answers are data: they are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments import findings, paper
from experiments.belief_figures import figures_of
from experiments.numbers import Numbers, Part
from experiments.pages import FROM_SFT, cost, folded, listed, made_line, override_lines, write_page
from experiments.results import Results, refusing_damage
from experiments.rows import DPO, GDPO, SFT, title_of
from experiments.tables import Names, differences, means, measured, spreads
from reporting.markdown import escaped
from reporting.tables import Table, as_markdown, as_number, format_cell
from reporting.words import BELIEFS, TITLES

NAMES = {
    **TITLES[BELIEFS],
    "margin_majority": "majority margin",
    "margin_minority": "minority margin",
    "bpc_minority": "BPC, minority beliefs",
    "belief_dependence": "dependence on the belief",
}
TABLES = {
    "Distributions": (
        "js_distance_probability",
        "js_distance_sampling",
        "wasserstein_probability",
        "majority_share",
    ),
    "Answers": ("cbc", "bpc", "rs"),
    "Minorities": ("margin_majority", "margin_minority", "bpc_minority", "belief_dependence"),
}
OF_TABLES = Names(NAMES, title_of)
COMPARED = (SFT, DPO)  # what every row is compared with
ON_WHAT = "on validations where there are several, else on the training steps' own"
CAPTIONS = {
    "margins": "Figure 1. Margins of implied rewards of majority (solid) and minority (dashed) pairs over "
    f"training; {ON_WHAT} pairs. Mean over seeds, band from the least to the most.",
    "jsd": f"Figure 2. JSD to the group over training; {ON_WHAT} prompts. Mean and range over seeds.",
    "collapse": "Figure 3. The collapse of DPO: its population optimum pi_ref(b) p\\*(b)^(1/beta) as a line, "
    "trained DPO models as points, over beta.",
}
ABOUT = (
    "JSD is the Jensen-Shannon distance (natural log, at most 0.833); Wasserstein is on the classes' scale, "
    "0 to 1. Lower is better. CBC, BPC and RS: higher is better. A majority share of 1 is faithful. Margins "
    "are beta times the accepted minus the other answer's log-ratio on held-out pairs, seen as each run was "
    "trained. BPC of minority beliefs counts answers that state another belief than the most common one; "
    "dependence on the belief is the mean share, over the beliefs stated to a question, of answers that suit "
    "their belief, minus 1 / their number: 0 at most where answers do not depend on it."
)


def publish(results: Results, folder: Path) -> Path:
    """Write NAME.md and its figures into `folder`. Raises UserError for damaged results."""
    numbers = Numbers(results)
    with refusing_damage():
        name = str(results["settings"]["name"])
        figures = figures_of(results)
        text = "\n\n".join(_page(results, numbers, name, list(figures))) + "\n"
    return write_page(folder, name, text, figures)


def _page(results: Results, numbers: Numbers, name: str, figures: Sequence[str]) -> Iterator[str]:
    settings = results["settings"]
    yield f"# {escaped(name)}: groups' opinions, trained and measured"
    yield _head(results)
    yield "## The paper's findings"
    yield _findings_overview(numbers)
    rules = "The rules: " + "; ".join(f"*{rule} 0* - {text}" for rule, text in findings.RULES.items()) + "."
    yield folded("Every part of every finding, with its number", f"{rules}\n\n{_findings_table(numbers)}")
    for figure in figures:
        yield f"![{figure}]({name}-{figure}.svg)\n\n{CAPTIONS[figure]}"
    if settings["paper"]:
        yield "## Beside the paper's table 2"
        yield "JSD / CBC / BPC / RS. Models, data, judge and embedder differ: orders compare, numbers do not."
        yield as_markdown(_beside_paper(numbers))
    yield f"## All rows\n\n{ABOUT}"
    for part in numbers.parts:
        yield from _part(numbers, part, has_spread=len(settings["seeds"]) > 1)
    yield from _answers(results["answers"])
    if results["collapse"] is not None:
        yield from _collapse(results["collapse"])
    yield from cost(results["cells"])


def _head(results: Results) -> str:
    settings, made = results["settings"], results["made"]
    how = made["measured"]
    lines = [
        f"- model: {escaped(settings['model'])}; groups: {listed(settings['groups'])}; "
        f"seeds: {', '.join(map(str, settings['seeds']))}",
        made_line(made),
        f"- {how['n_samples']} samples a prompt, at most {how['max_new_tokens']} tokens, "
        f"temperature {how['temperature']}; BPC by {escaped(str(how['judge']))}; RS by "
        f"{escaped(str(how['embedder']))}",
        FROM_SFT,
        *override_lines(settings),
    ]
    return "\n".join(lines)


def place_of(part: Part) -> str:
    return f"{escaped(part.group)} ({escaped(part.split)})"


# --- findings -----------------------------------------------------------------------------------------------


def _findings_overview(numbers: Numbers) -> str:
    rows = []
    judged = {part: findings.judge(numbers, part) for part in numbers.parts}
    for number, text in findings.FINDINGS.items():
        of_parts = [
            findings.whole([j for j in judged[p] if j.claim.finding == number]) for p in numbers.parts
        ]
        rows.append([f"{number}. {text}", *of_parts])
    return as_markdown(Table("findings", ["finding", *map(place_of, numbers.parts)], rows))


def _findings_table(numbers: Numbers) -> str:
    rows = []
    for part in numbers.parts:
        for claim, found, verdict in findings.judge(numbers, part):
            what = f"{NAMES[claim.metric]}: {findings.words_of(claim)}"
            rule = f"{claim.rule} 0"
            cells = [str(claim.finding), place_of(part), what, rule, format_cell(found), verdict]
            rows.append(cells)
    header = ["finding", "on", "measure", "expected", "value", "verdict"]
    return as_markdown(Table("findings", header, rows))


def _beside_paper(numbers: Numbers) -> Table:
    rows = []
    for name, of_methods in paper.TABLE.items():
        rows.append([f"paper: {name}", *(_four(of_method) for of_method in of_methods)])
    for part in numbers.parts:
        cells = []
        for method in paper.METHODS:
            found = [numbers.summary(part, method, metric) for metric in paper.METRICS]
            cells.append(_four([None if of is None else of["value"] for of in found]))
        rows.append([place_of(part), *cells])
    return Table("paper", ["", *map(title_of, paper.METHODS)], rows)


def _four(values: Sequence[float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


# --- one population and split -------------------------------------------------------------------------------


def _part(numbers: Numbers, part: Part, has_spread: bool) -> Iterator[str]:
    yield f"### {place_of(part)}"
    yield f"{numbers.prompts[part]} prompts on {len(numbers.weights[part])} questions."
    for title, metrics in TABLES.items():
        table = means(numbers, part, metrics, OF_TABLES)
        if table.rows:
            yield f"{title}:"
            yield as_markdown(table)
    known = measured(numbers, part, TABLES)
    if has_spread:
        table = as_markdown(spreads(numbers, part, known, OF_TABLES))
        yield folded("Spread of the seeds' means: standard deviation (least to most)", table)
    table = as_markdown(differences(numbers, part, known, COMPARED, OF_TABLES))
    yield folded(
        "Paired differences (p by sign flips of questions; Holm over all comparisons of a measure)", table
    )


# --- answers, the collapse, and what it took ----------------------------------------------------------------


def _answers(lines: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Finding 4: rows side by side, a table a question."""
    if not lines:
        return
    yield "## Answers by belief"
    yield (
        "The questions on which each group is most divided; the first sampled answer (seed by seed) under "
        "each stated belief, with the judge's verdict whether it suits. -: none of the samples states it."
    )
    methods = list(dict.fromkeys(line["method"] for line in lines))
    shown = [method for method in (SFT, DPO, GDPO) if method in methods] or methods
    tables: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for line in lines:
        of_question = tables.setdefault((line["group"], line["split"], line["prompt"]), {})
        belief = f"{escaped(line['belief'])} ({line['share']:.0%})"
        of_question.setdefault(belief, {})[line["method"]] = _answer(line)
    for (group, split, prompt), beliefs in tables.items():
        yield f"**{escaped(prompt)}** ({place_of(Part(group, split))})"
        rows = [[belief, *(of.get(method, "-") for method in shown)] for belief, of in beliefs.items()]
        yield as_markdown(Table("answers", ["belief (share of the group)", *map(title_of, shown)], rows))


def _answer(line: Mapping[str, object]) -> str:
    if line["response"] is None:
        return "-"
    verdict = {True: "suits", False: "does not suit", None: "no verdict"}[line["consistent"]]
    return f"{escaped(line['response'])} *({verdict})*"


def _collapse(collapse: Mapping[str, object]) -> Iterator[str]:
    yield "## The collapse of DPO"
    yield (
        "With the accepted belief drawn from p\\* and the other one uniformly, DPO's population optimum is "
        "pi_ref(b) p\\*(b)^(1/beta). Means over the prompts of "
        f"{place_of(Part(collapse['group'], collapse['split']))}, seed {collapse['seed']}; DPO models were "
        "trained as long as the rows above, from the same SFT."
    )
    theory = {line["beta"]: line for line in collapse["theory"]}
    rows = []
    for point in collapse["points"]:
        expected = theory[point["beta"]]
        numbers = [expected["majority"], point["majority"], expected["js_distance"], point["js_distance"]]
        rows.append([f"{point['beta']:g}", *map(as_number, numbers)])
    for name in ("sft", "group_itself"):
        mass, gap = collapse[name]["majority"], collapse[name]["js_distance"]
        rows.append([name.replace("_", " ").replace("sft", "SFT"), "-", as_number(mass), "-", as_number(gap)])
    header = ["beta", "majority mass, theory", "trained", "JSD, theory", "trained"]
    yield as_markdown(Table("collapse", header, rows))
