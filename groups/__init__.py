"""Groups of responses, from text to token trees: records, readers, views, tokens and the audit."""

from groups.audit import Audit, audit_groups, audit_splits
from groups.beliefs import draw_pairs, read_goqa, read_mmoqa, read_opinions
from groups.draws import rng_of
from groups.files import (
    DATA,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    hold_out,
    numbered,
    read_rows,
    read_table,
)
from groups.own import parse_group, read_own
from groups.preferences import (
    read_armorm,
    read_binarized,
    read_hh,
    read_se,
    read_shp,
    read_ultrafeedback,
)
from groups.record import CLASSES, Belief, Example, Group, Prompt, Response
from groups.rows import Reader, Rows, Source
from groups.shots import response_text, with_shots
from groups.tokens import (
    Limits,
    class_token_ids,
    cut_prompt,
    encode_prompt,
    limits_with_shots,
    mismatch,
    tokenize,
)
from groups.views import VIEWS, view

__all__ = [
    "Audit",
    "CLASSES",
    "DATA",
    "OPINION_GROUPS",
    "OPINION_SPLITS",
    "SUFFIXES",
    "VIEWS",
    "Belief",
    "Example",
    "Group",
    "Limits",
    "Prompt",
    "Reader",
    "Response",
    "Rows",
    "Source",
    "audit_groups",
    "audit_splits",
    "class_token_ids",
    "cut_prompt",
    "draw_pairs",
    "encode_prompt",
    "hold_out",
    "limits_with_shots",
    "mismatch",
    "numbered",
    "parse_group",
    "read_armorm",
    "read_binarized",
    "read_goqa",
    "read_hh",
    "read_mmoqa",
    "read_opinions",
    "read_own",
    "read_rows",
    "read_se",
    "read_shp",
    "read_table",
    "read_ultrafeedback",
    "response_text",
    "rng_of",
    "tokenize",
    "view",
    "with_shots",
]
