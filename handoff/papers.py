"""The papers of the losses, for a model card's citation. docs/objectives.md names the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Paper(NamedTuple):
    """A paper on arXiv."""

    key: str
    title: str
    first_author: str
    year: int
    arxiv: str


GDPO = Paper(
    "gdpo",
    "No Preference Left Behind: Group Distributional Preference Optimization",
    "Yao, Binwei",
    2024,
    "2412.20299",
)
SWEPO = Paper("swepo", "Simultaneous Weighted Preference Optimization", "Gupta, Taneesh", 2024, "2412.04628")
DPO = Paper(
    "dpo",
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    "Rafailov, Rafael",
    2023,
    "2305.18290",
)
IPO = Paper(
    "ipo",
    "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    "Azar, Mohammad Gheshlaghi",
    2023,
    "2310.12036",
)
KTO = Paper(
    "kto", "KTO: Model Alignment as Prospect Theoretic Optimization", "Ethayarajh, Kawin", 2024, "2402.01306"
)
NCA = Paper(
    "nca",
    "Noise Contrastive Alignment of Language Models with Explicit Rewards",
    "Chen, Huayu",
    2024,
    "2402.05369",
)
RPO = Paper("rpo", "Iterative Reasoning Preference Optimization", "Pang, Richard Yuanzhe", 2024, "2404.19733")
SIMPO = Paper(
    "simpo",
    "SimPO: Simple Preference Optimization with a Reference-Free Reward",
    "Meng, Yu",
    2024,
    "2405.14734",
)
ORPO = Paper(
    "orpo",
    "ORPO: Monolithic Preference Optimization without Reference Model",
    "Hong, Jiwoo",
    2024,
    "2403.07691",
)
SLIC = Paper(
    "slic",
    "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
    "Zhao, Yao",
    2023,
    "2305.10425",
)
RSO = Paper(
    "rso",
    "Statistical Rejection Sampling Improves Preference Optimization",
    "Liu, Tianqi",
    2023,
    "2309.06657",
)
LIPO = Paper(
    "lipo",
    "LiPO: Listwise Preference Optimization through Learning-to-Rank",
    "Liu, Tianqi",
    2024,
    "2402.01878",
)
PAPERS = {  # by the loss's name, as a run records it
    "gdpo": (GDPO,),
    "swepo": (SWEPO,),
    "dpo": (DPO,),
    "ipo": (IPO,),
    "kto": (KTO,),
    "slic": (SLIC,),
    "simpo": (SIMPO,),
    "orpo": (ORPO,),
    "infonca": (NCA,),
    "nca": (NCA,),
    "plackett_luce": (DPO,),  # its appendix A.3
    "lipo": (LIPO,),
}


def papers_of(loss: str, keys: Mapping[str, object]) -> tuple[Paper, ...]:
    """The papers of a loss with these keys, each once; none where no paper is known for it."""
    papers = [*PAPERS.get(loss, ()), *_of_keys(loss, keys)]
    return tuple(dict.fromkeys(papers))


def _of_keys(loss: str, keys: Mapping[str, object]) -> Iterator[Paper]:
    """The papers of the terms that the keys turn on."""
    if loss == "dpo" and keys.get("nll_weight"):
        yield RPO
    if loss == "slic" and keys.get("reference_free") is False:
        yield RSO
    preference = keys.get("preference")
    if loss == "gdpo" and keys.get("preference_weight", 1.0) and isinstance(preference, str):
        chosen = keys.get("preference_keys")
        yield from papers_of(preference, chosen if isinstance(chosen, Mapping) else {})


def bibtex(paper: Paper) -> str:
    """An entry for a list of references."""
    return (
        f"@misc{{{paper.key}{paper.year},\n"
        f"  title = {{{paper.title}}},\n"
        f"  author = {{{paper.first_author} and others}},\n"
        f"  year = {{{paper.year}}},\n"
        f"  eprint = {{{paper.arxiv}}},\n"
        "  archivePrefix = {arXiv}\n"
        "}"
    )
