"""The papers of the losses, for a model card's citation."""

from __future__ import annotations

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
PAPERS = {  # by the loss's name, before its first _ where the whole is not there
    "gdpo": (GDPO,),
    "gdpo_kto": (GDPO, KTO),
    "gdpo_swepo": (GDPO, SWEPO),
    "swepo": (SWEPO,),
    "dpo": (DPO,),
    "cdpo": (DPO,),
    "ipo": (IPO,),
    "kto": (KTO,),
    "infonca": (NCA,),
    "nca": (NCA,),
}


def papers_of(loss: str) -> tuple[Paper, ...]:
    """The papers of a loss; none where no paper is known for it."""
    return PAPERS.get(loss) or PAPERS.get(loss.partition("_")[0], ())


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
