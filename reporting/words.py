"""What a report calls its kinds of data and its metrics, what each means, and which way is better.

Contract: names as in report.json go in, words for readers come out; every metric of report.json has a title
here, and one that is better lower or higher says so.
"""

from __future__ import annotations

BELIEFS = "beliefs"  # p* of the group's people
REWARD = "reward"  # of sampled responses, which a program computes
PREFERENCE = "preference"  # rewards that differ, or pairs
LABELS = "labels"  # each response by itself is desirable or not
TARGET = "target"  # one response, as SFT data has it
TASK = "task"  # questions of a benchmark, which no data set is of

CAPTIONS = {
    BELIEFS: "Beliefs of a group",
    REWARD: "Rewards of sampled responses",
    PREFERENCE: "Responses in order",
    LABELS: "Responses labelled one by one",
    TARGET: "Target responses",
    TASK: "Answers to the questions of a task",
}
ABOUT = {  # what the columns mean
    BELIEFS: (
        "JSD is the Jensen-Shannon distance (natural log, at most 0.833) between the model's belief "
        "distribution and the group's; Wasserstein is the distance of the two on the classes' scale, from 0 "
        "to 1, without don't know. Lower is better. CBC, BPC and RS: higher is better. A majority share of 1 "
        "is faithful. Rows in brackets are what guessing gets, and what draws from the group itself get."
    ),
    REWARD: (
        "Reward: what a program says that a sampled response is worth, the mean over the samples of every "
        "prompt; from constraints, 10 times the mean of how far each is satisfied. Constraints met: mean "
        "share of a prompt's constraints that a response meets altogether; all met: share of responses that "
        "meet every one. Best of n: the highest reward among the samples of a prompt. WR: how often a sample "
        "has a higher reward than a sample of the baseline, over all pairs of one prompt, ties counting "
        "half; 0.5 is no difference. Tokens count what ended a response; cut are those that hit the limit."
    ),
    PREFERENCE: (
        "Implied rewards, beta times the log-ratio to the reference, against the rewards that the responses "
        "carry, or against which one of a pair is preferred. Pair accuracy: the best response above each "
        "other; set accuracy: all responses above the mean reward over all below it; mass on Y-: share of "
        "the softmax on those below; margin: reward of the best minus the mean of the others. KL to the "
        "reference is the mean of reference minus policy log-probs, in nats a response. Accuracy of "
        "log-probs a token needs no reference: the best response's mean log-prob over its tokens above each "
        "other's."
    ),
    LABELS: (
        "Each response counts by itself. Rewards are implied: beta times the log-ratio to the reference. "
        "Difference: mean reward of the desirable responses minus that of the undesirable ones. "
        "AUC: how often a desirable response has a higher reward than an undesirable one, of whatever "
        "prompt; 0.5 is chance. AUC of log-probs a token compares mean log-probs over a response's tokens "
        "and needs no reference."
    ),
    TARGET: (
        "NLL is the negative log-likelihood of the responses in nats a token: the sum over all prompts "
        "divided by the number of all tokens, the end of the response included; perplexity is its "
        "exponential. By prompt, each response's mean over its tokens counts alike, as in the loss of SFT. "
        "Lower is better. The reference is what the run started from."
    ),
    TASK: (
        "WR is the judge's mean preference for the checkpoint's answer over the baseline's; LC-WR is what it "
        "would be at equal lengths, by AlpacaEval 2's logistic model. Scores are the judge's, 1 to 10 of a "
        "chat model. Shares are of answers."
    ),
}
DIFFERENCES = (
    "The first checkpoint's value minus the second one's, on the prompts that both have: mean, 95% bootstrap "
    "interval over questions, and two-sided p of no difference, by sign flips of whole questions (AUC and "
    "differences of rewards: by bootstrap). p (Holm) is adjusted for all pairs of one metric."
)
COUNTS = "Sampled responses that could not be judged, and why; what is 0 everywhere is left out."
TITLES = {  # of each kind's metrics
    BELIEFS: {
        "js_distance_probability": "JSD (probability)",
        "js_distance_sampling": "JSD (sampling)",
        "js_distance_floor": "floor of JSD (sampling)",
        "wasserstein_probability": "Wasserstein (probability)",
        "wasserstein_sampling": "Wasserstein (sampling)",
        "wasserstein_floor": "floor of Wasserstein (sampling)",
        "cbc": "CBC",
        "bpc": "BPC",
        "rs": "RS",
        "judge_score": "judge score",
        "majority_share": "majority share",
        "class_mass": "class mass",
    },
    REWARD: {
        "true_reward": "reward",
        "constraints_met": "constraints met",
        "all_constraints_met": "all met",
        "reward_win_rate": "WR by reward",
        "true_reward_best": "best reward (sampling)",
        "response_words": "words",
        "response_tokens": "tokens of a response",
        "response_cut_share": "share of responses cut",
    },
    PREFERENCE: {
        "pair_accuracy": "pair accuracy",
        "set_accuracy": "set accuracy",
        "kendall_tau": "Kendall's tau",
        "negative_mass": "mass on Y-",
        "margin": "margin",
        "kl_reference": "KL to reference",
        "logp_best": "log-prob of the best",
        "logp_others": "log-prob of the others",
        "logp_accuracy": "accuracy of log-probs a token",
    },
    LABELS: {
        "auc": "AUC",
        "reward_difference": "difference",
        "reward_desirable": "reward of desirable",
        "reward_undesirable": "reward of undesirable",
        "logp_desirable": "log-prob of desirable",
        "logp_undesirable": "log-prob of undesirable",
        "logp_auc": "AUC of log-probs a token",
    },
    TARGET: {
        "nll": "NLL a token",
        "reference_nll": "reference's NLL a token",
        "nll_by_prompt": "NLL a token, by prompt",
        "perplexity": "perplexity",
        "reference_perplexity": "reference's perplexity",
    },
    TASK: {
        "win_rate": "WR",
        "length_controlled_win_rate": "LC-WR",
        "length_controlled_win_rate_without_difficulty": "LC-WR without difficulty",
        "score": "score",
        "score_turn_1": "score of turn 1",
        "score_turn_2": "score of turn 2",
        "characters": "characters",
        "baseline_characters": "baseline's characters",
        "tokens": "tokens",
        "cut_share": "share cut",
        "empty_share": "share empty",
        "withheld_share": "share withheld",
    },
}
HEADLINE = (  # metrics that a reader looks for first; the others are one click, or a file, away
    "js_distance_probability",
    "js_distance_sampling",
    "bpc",
    "rs",
    "true_reward",
    "constraints_met",
    "all_constraints_met",
    "reward_win_rate",
    "pair_accuracy",
    "set_accuracy",
    "logp_accuracy",
    "auc",
    "nll",
    "win_rate",
    "length_controlled_win_rate",
    "score",
)
IN_TABLE = frozenset(  # metrics of the page's first table; the whole one is folded
    (
        *HEADLINE,
        "cbc",
        "majority_share",
        "judge_score",
        "true_reward_best",
        "response_words",
        "kendall_tau",
        "negative_mass",
        "margin",
        "kl_reference",
        "reward_difference",
        "perplexity",
        "characters",
        "cut_share",
    )
)
LOWER = frozenset(  # metrics that are better lower
    (
        "js_distance_probability",
        "js_distance_sampling",
        "wasserstein_probability",
        "wasserstein_sampling",
        "negative_mass",
        "nll",
        "nll_by_prompt",
        "perplexity",
        "response_cut_share",
        "cut_share",
        "empty_share",
        "withheld_share",
    )
)
HIGHER = frozenset(  # metrics that are better higher; what stands in neither has no better side
    (
        "cbc",
        "bpc",
        "rs",
        "judge_score",
        "true_reward",
        "true_reward_best",
        "constraints_met",
        "all_constraints_met",
        "reward_win_rate",
        "pair_accuracy",
        "set_accuracy",
        "kendall_tau",
        "margin",
        "logp_accuracy",
        "auc",
        "reward_difference",
        "logp_auc",
        "win_rate",
        "length_controlled_win_rate",
        "length_controlled_win_rate_without_difficulty",
        "score",
        "score_turn_1",
        "score_turn_2",
    )
)


def better_side(metric: str) -> int:
    """-1: lower is better, 1: higher is better, 0: neither."""
    return -1 if metric in LOWER else int(metric in HIGHER)
