#!/usr/bin/env bash
# Rounds of Swepo on a model's own responses: each samples, scores, trains and measures.
# The reference of a round is the model that sampled it. A round has a folder, $OUTPUT_DIR/$NAME/round-n: its data (data/), its run (swepo-n/)
# and measures (report/: the model before training, the one that sampled, the one that was trained, on held-out prompts).
# usage: bash train_scripts/run_iterative_swepo.sh [plan=true] [rounds=2] [prompts=60] [samples=8] [overrides of train.py ...]
#   rounds=2                   how many
#   prompts=60 samples=8       of a round: prompts, drawn anew in every round, and responses to each
#   plan=true                  print the commands and what a round's training would take; nothing runs
#   MODEL=smollm2              a file of config/model/
#   LOSS=swepo                 a file of config/loss/ for ranked responses
#   DATASET=instructions       the prompts: a data set or a file of prompts; SPLIT=train of it, null for a file of prompts
#   REWARD=constraints         or reward_model, openai (JUDGE_MODEL=...), module:function; as reward= of synthesize.py
#   HELD_OUT=instructions      what is measured on, its split test; a file of prompts where REWARD is reward_model or openai
#   OUTPUT_DIR=outputs NAME=iterative-swepo    where
#   NPROC=<number of GPUs>     processes that train; more than one goes through torchrun
#   SAMPLE="temperature=1"     overrides of synthesize.py
#   EVAL="n_samples=8"         overrides of evaluate.py
# Ctrl-C stops it in any round; the same command goes on there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/run_iterative_swepo.sh"; exit ;; esac
refuse() { echo "error: $1" >&2; exit 2; }
rounds=2; prompts=60; samples=8; plan=false; overrides=()
for override in "$@"; do
  case $override in
    rounds=*|prompts=*|samples=*)
      [[ ${override#*=} =~ ^[1-9][0-9]{0,6}$ ]] || refuse "$override: must be a whole number above 0"
      declare "$override";;
    plan=true|plan=false) plan=${override#*=};;
    exp_name=*|output_dir=*|model.archive=*|datasets=*|loss=*|seed=*) refuse "$override: this script sets it; see its first lines, or call train.py";;
    *=*) overrides+=("$override");;
    *) refuse "$override: must be key=value; usage: bash train_scripts/run_iterative_swepo.sh [rounds=2] [overrides of train.py ...]";;
  esac
done
for override in ${EVAL:-} ${SAMPLE:-}; do
  case $override in ckpt=*|output=*|check=*|task=*|sources=*|reward=*) refuse "$override: this script sets it; see its first lines";; esac
done
source train_scripts/setup.sh

MODEL=${MODEL:-smollm2}; LOSS=${LOSS:-swepo}; DATASET=${DATASET:-instructions}; REWARD=${REWARD:-constraints}
OUTPUT_DIR=${OUTPUT_DIR:-outputs}; NAME=${NAME:-iterative-$LOSS}
usual_split=null; [ "$DATASET" != instructions ] || usual_split=train
SPLIT=${SPLIT:-$usual_split}
[ "$DATASET" = instructions ] || [ -n "${HELD_OUT:-}" ] || refuse "DATASET=$DATASET: name held-out prompts, too; set HELD_OUT=<data set or file>"
HELD_OUT=${HELD_OUT:-instructions}
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
[[ $NPROC =~ ^[0-9]+$ ]] || refuse "NPROC=$NPROC: must be a number of processes"
scoring=("reward=$REWARD"); [ -z "${JUDGE_MODEL:-}" ] || scoring+=("judge_model='$JUDGE_MODEL'")
case $REWARD in
  constraints) measuring=("datasets=['$HELD_OUT']" split=test);;
  reward_model|openai) measuring=(task=prompts "prompts='$HELD_OUT'" "judge=$REWARD" "judge_model='${JUDGE_MODEL:-}'");;
  *:*) measuring=("datasets=['$HELD_OUT']" split=test "reward=$REWARD");;
  *) refuse "REWARD=$REWARD: choose constraints, reward_model, openai, or name a function, module:function";;
esac
case $REWARD in reward_model|openai) [ -n "${JUDGE_MODEL:-}" ] || refuse "REWARD=$REWARD: set JUDGE_MODEL=..., too";; esac

recipe=($("$PYTHON" -m experiments.recipes "$MODEL" "$DATASET" "$LOSS" preference))  # experiments/recipes.yaml
# arrays that may be empty are guarded: bash 3.2, which macOS has, takes an empty one as unset
training=("loss=$LOSS" model="$MODEL" ${recipe[@]+"${recipe[@]}"} ${overrides[@]+"${overrides[@]}"})
base=$("$PYTHON" train.py --cfg job --package model "${training[@]}" | sed -n 's/^name_or_path: *//p')

commands() {  # of round $1, one a line, its arguments apart by tabs
  local n=$1 folder="$OUTPUT_DIR/$NAME/round-$1" sampler=$base compared start="" tab=$'\t'
  local run="$folder/$LOSS-$n" IFS=$'\t'
  compared="'$base'"
  if [ "$n" -gt 1 ]; then
    sampler="$OUTPUT_DIR/$NAME/round-$((n - 1))/$LOSS-$((n - 1))"
    compared+=",'$sampler'"
    start="${tab}model.archive='$sampler'"
  fi
  echo "synthesize.py${tab}task=ranked${tab}sources=['$DATASET']${tab}split=$SPLIT${tab}n=$prompts${tab}n_samples=$samples${tab}ckpt='$sampler'${tab}seed=$n${tab}${scoring[*]}${tab}output='$folder/data'${SAMPLE:+$tab${SAMPLE// /$tab}}"
  echo "train.py${tab}${training[*]}${tab}datasets=['$folder/data/train.jsonl']${tab}exp_name=$LOSS-$n${tab}output_dir='$folder'${tab}seed=$n$start"
  echo "evaluate.py${tab}ckpt=[$compared,'$run']${tab}${measuring[*]}${tab}output='$folder/report'${tab}overwrite=true${EVAL:+$tab${EVAL// /$tab}}"
}
quoted() {  # lines as a shell takes them
  local arguments
  while IFS=$'\t' read -r -a arguments; do echo "  python$(printf ' %q' "${arguments[@]}")"; done
}
perform() {  # one line of the above
  local arguments
  IFS=$'\t' read -r -a arguments <<< "$1"
  if [ "${arguments[0]}" = train.py ] && [ "$NPROC" -gt 1 ]; then
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node="$NPROC" "${arguments[@]}"
  else
    "$PYTHON" "${arguments[@]}"
  fi
}
quietly() {  # a check: its words are shown where it fails, or are asked for
  local words code=0
  words=$("$PYTHON" "$@" 2>&1) || code=$?
  [ $code = 0 ] || { grep '^error: ' <<< "$words" >&2 || echo "$words" >&2; exit $code; }
  [ "$plan" = false ] || echo "$words"
}

echo "checking the config of every round" >&2
stand_in=$(mktemp -d); trap 'rm -rf "$stand_in"' EXIT
for ((i = 0; i < prompts + 1; i++)); do
  answers=""
  for ((k = 0; k < samples; k++)); do answers+="{\"text\": \"Answer $k, of thirty words or so.\", \"reward\": $k}, "; done
  echo "{\"prompt\": \"Say $i\", \"responses\": [${answers%, }]}"
done > "$stand_in/train.jsonl"
quietly train.py plan=true "${training[@]}" "datasets=['$stand_in/train.jsonl']" exp_name=plan
quietly evaluate.py check=true ckpt="'$base'" "${measuring[@]}" ${EVAL:-} "output='$OUTPUT_DIR/$NAME/round-1/report'"
if [ "$plan" = true ]; then
  for ((n = 1; n <= rounds; n++)); do echo "round $n:"; commands "$n" | quoted; done
  exit 0
fi

for ((n = 1; n <= rounds; n++)); do
  done_file="$OUTPUT_DIR/$NAME/round-$n/commands.txt"
  wanted=$(commands "$n")
  if [ -f "$done_file" ] && [ "$(cat "$done_file")" = "$wanted" ]; then echo "round $n is done" >&2; continue; fi
  echo "round $n of $rounds" >&2
  while IFS= read -r line; do perform "$line" < /dev/null; done <<< "$wanted"
  mkdir -p "${done_file%/*}" && echo "$wanted" > "$done_file"
done
echo "the rounds: $OUTPUT_DIR/$NAME/round-*/report/report.html"
