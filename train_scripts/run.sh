#!/usr/bin/env bash
# SFT, then one preference objective from the SFT checkpoint, then all of them evaluated side by side.
# Losses of ranked responses (infonca, nca, swepo, lipo, ...) train from the base model, as the Swepo paper does, on prompts whose reward a
# program computes: what is sampled is rewarded anew, before and after.
# usage: bash train_scripts/run.sh sft|icf|<a file of config/loss/> [overrides of train.py ...]
#   icf trains on prompts that follow three solved ones, and evaluates the base model by few-shot prompting beside it
#   MODEL=smollm2              a file of config/model/
#   DATASET=opinions/republican   for losses of ranked responses: instructions
#   SFT=yes                    no: train from the base model, without an SFT stage; for losses of ranked responses: no, but for opinions
#   OUTPUT_DIR=outputs         runs go to $OUTPUT_DIR/<loss>, those of another model or data set to $OUTPUT_DIR/<loss>-<MODEL>-<DATASET>
#   NPROC=<number of GPUs>     processes; more than one goes through torchrun
#   EVAL="split=test_questions n_samples=16"   overrides of evaluate.py
# Overrides: python train.py --help; all keys: config/config.yaml
# Overrides reach every training stage, loss.* only the last one. All stages are checked before the first one trains.
# Learning rates, batches, epochs and the like are those of experiments/recipes.yaml: for the embedded model sized for
# two CPU cores, for other models the GDPO paper's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/run.sh"; exit ;; esac
refuse() { echo "error: $1" >&2; exit 2; }
[ $# -gt 0 ] || refuse "usage: bash train_scripts/run.sh sft|icf|<a file of config/loss/> [overrides of train.py ...]"
loss=$1; shift
for override in "$@"; do
  case $override in exp_name=*|output_dir=*|model.archive=*) refuse "$override: this script names its runs; set OUTPUT_DIR=..., or call train.py";; esac
done
for override in ${EVAL:-}; do
  case $override in ckpt=*|output=*|check=*) refuse "EVAL: $override: this script names what it evaluates; call evaluate.py";; esac
done
source train_scripts/setup.sh

usual_data=opinions/republican; usual_sft=yes
# what the loss compares; a loss that is none is refused below
view=$("$PYTHON" train.py --cfg job --package responses loss="$loss" 2> /dev/null) || true
if [ "$view" = ranked ]; then
  usual_data=instructions
  case ${DATASET:-instructions} in opinions*) ;; *) usual_sft=no;; esac  # opinions' answers have a form that SFT teaches
fi
MODEL=${MODEL:-smollm2}; DATASET=${DATASET:-$usual_data}; SFT=${SFT:-$usual_sft}; OUTPUT_DIR=${OUTPUT_DIR:-outputs}
case $SFT in yes|no) ;; *) refuse "SFT=$SFT: choose yes or no";; esac
case $SFT/$loss in no/sft|no/icf) refuse "SFT=no: $loss is an SFT; leave SFT out";; esac
named="-$MODEL-${DATASET//[^A-Za-z0-9_]/-}"  # runs of other models and data, or begun elsewhere, have names of their own
suffix=$named; sft_suffix=$named
[ "$MODEL/$DATASET" != "smollm2/$usual_data" ] || suffix=""
[ "$MODEL/$DATASET" != smollm2/opinions/republican ] || sft_suffix=""
[ "$SFT" = "$usual_sft" ] || { [ "$SFT" = yes ] && suffix+="-after-sft" || suffix+="-from-base"; }
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
[[ $NPROC =~ ^[0-9]+$ ]] || refuse "NPROC=$NPROC: must be a number of processes"

recipe() { "$PYTHON" -m experiments.recipes "$MODEL" "$DATASET" "$loss" "$1"; }  # experiments/recipes.yaml
sft=($(recipe sft)); preference=($(recipe preference)); evaluation=($(recipe evaluate))
common=(model="$MODEL" "datasets=[$DATASET]" output_dir="$OUTPUT_DIR")
shared=()  # arrays that may be empty are guarded: bash 3.2, which macOS has, takes an empty one as unset
for override in "$@"; do [[ $override == loss.* && $loss != sft ]] || shared+=("$override"); done
first=sft
if [ "$loss" = icf ]; then first=icf; sft+=(icf_shots=3); evaluation+=(few_shot=3); fi
sft=(loss=sft exp_name="$first$sft_suffix" "${common[@]}" ${sft[@]+"${sft[@]}"} ${shared[@]+"${shared[@]}"})
preference=(loss="$loss" exp_name="$loss$suffix" "${common[@]}" ${preference[@]+"${preference[@]}"} "$@")
# a run that was trained on has other responses: those that are there go aside
evaluation+=("output=$OUTPUT_DIR/$loss$suffix/report" overwrite=true ${EVAL:-})

quietly() {  # a check: its words are shown where it fails
  local words code=0
  words=$("$PYTHON" "$@" 2>&1) || code=$?
  [ $code = 0 ] || { grep '^error: ' <<< "$words" >&2 || echo "$words" >&2; exit $code; }
}
train() {
  if [ "$NPROC" -gt 1 ]; then "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node="$NPROC" train.py "$@"; else "$PYTHON" train.py "$@"; fi
}

echo "checking the config and the data of every stage" >&2
[ "$SFT" = no ] || quietly train.py plan=true "${sft[@]}"
[ "$loss" = "$first" ] || quietly train.py plan=true "${preference[@]}"
base=$("$PYTHON" train.py --cfg job --package model "${sft[@]}" | sed -n 's/^name_or_path: *//p')
known=()  # of the runs' config that is yet to be written: what evaluate.py will take from it
eval_data=()  # where the run names some: that is evaluated on
for override in "datasets=[$DATASET]" "$@"; do
  case $override in
    eval_datasets=null) eval_data=();;
    eval_datasets=*) eval_data=("${override#eval_}");;
    datasets=*|belief_classes=*|max_length=*|max_prompt_length=*|truncation=*|seed=*|eval_fraction=*|group_in_prompt=*|group_template=*) known+=("$override");;
  esac
done
known+=(${eval_data[@]+"${eval_data[@]}"})
quietly evaluate.py check=true ckpt="'$base'" ${known[@]+"${known[@]}"} "${evaluation[@]}"

runs="'$base'"
if [ "$SFT" = yes ]; then
  train "${sft[@]}"
  runs+=",'$OUTPUT_DIR/$first$sft_suffix'"
  preference+=(model.archive="$OUTPUT_DIR/$first$sft_suffix")
fi
if [ "$loss" != "$first" ]; then
  train "${preference[@]}"
  runs+=",'$OUTPUT_DIR/$loss$suffix'"
fi
"$PYTHON" evaluate.py "ckpt=[$runs]" "${evaluation[@]}"
