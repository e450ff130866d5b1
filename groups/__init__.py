"""Groups of responses, from text to token trees: records, readers, views, tokens and the audit."""

from groups.audit import Audit, audit_groups, audit_lines
from groups.beliefs import read_opinions
from groups.drawing import draw_pairs
from groups.draws import rng_of
from groups.endings import ending_ids, stop_ids
from groups.files import (
    DATA,
    INSTRUCTION_SPLITS,
    INSTRUCTIONS,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    open_table,
    read_rows,
)
from groups.formats import FORMATS, OWN, Format, choose_format, read_groups
from groups.instructions import Instruction, constraints_by_id, read_instructions, read_ranked_instructions
from groups.needs import check_beliefs, check_examples
from groups.options import read_option_map
from groups.own import parse_group
from groups.prompts import encode_prompt
from groups.record import CLASSES, Belief, Example, Group, Prompt, Response
from groups.rows import Drops, Reader, Rows, Source, add_drops, left_out, why_dropped
from groups.shots import response_text, with_shots
from groups.splits import Loaded, keep_apart
from groups.tokens import (
    Limits,
    class_token_ids,
    cut_prompt,
    mismatch,
    prompt_ids,
    tokenize,
    tokenizer_identity,
)
from groups.views import VIEWS, view

__all__ = [
    "Audit",
    "Belief",
    "CLASSES",
    "DATA",
    "Drops",
    "Example",
    "Group",
    "INSTRUCTIONS",
    "INSTRUCTION_SPLITS",
    "Instruction",
    "Limits",
    "Loaded",
    "OPINION_GROUPS",
    "OPINION_SPLITS",
    "Prompt",
    "Reader",
    "Response",
    "Rows",
    "SUFFIXES",
    "Source",
    "VIEWS",
    "add_drops",
    "audit_groups",
    "audit_lines",
    "check_beliefs",
    "check_examples",
    "FORMATS",
    "OWN",
    "Format",
    "choose_format",
    "constraints_by_id",
    "read_groups",
    "read_option_map",
    "class_token_ids",
    "cut_prompt",
    "draw_pairs",
    "encode_prompt",
    "left_out",
    "ending_ids",
    "keep_apart",
    "mismatch",
    "open_table",
    "parse_group",
    "prompt_ids",
    "read_instructions",
    "read_opinions",
    "read_ranked_instructions",
    "read_rows",
    "response_text",
    "rng_of",
    "stop_ids",
    "tokenize",
    "tokenizer_identity",
    "view",
    "why_dropped",
    "with_shots",
]
