#!/usr/bin/env bash
# SFT, then one preference objective from the SFT checkpoint, then all of them evaluated side by side.
# usage: bash train_scripts/run.sh sft|icf|<a file of config/loss/> [overrides of train.py ...]
#   icf trains on prompts that follow three solved ones, and evaluates the base model by few-shot prompting beside it
#   MODEL=smollm2              a file of config/model/
#   DATASET=opinions/republican
#   OUTPUT_DIR=outputs         runs go to $OUTPUT_DIR/<name>
#   NPROC=<number of GPUs>     processes; more than one goes through torchrun
#   EVAL="split=test_questions n_samples=16"   overrides of evaluate.py
# Overrides reach every training stage; loss.* only the last one. The embedded model gets settings for two CPU cores,
# other models the GDPO paper's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/setup.sh

loss=$1; shift
MODEL=${MODEL:-smollm2}; DATASET=${DATASET:-opinions/republican}; OUTPUT_DIR=${OUTPUT_DIR:-outputs}
suffix=""
[ "$MODEL/$DATASET" = smollm2/opinions/republican ] || suffix="-$MODEL-${DATASET//[^A-Za-z0-9_]/-}"
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
for override in "$@"; do
  case $override in exp_name=*|output_dir=*|model.archive=*) echo "error: $override: this script names its runs; set OUTPUT_DIR=..., or call train.py" >&2; exit 2;; esac
done

if [ "$MODEL" = smollm2 ]; then  # sized for 12 minutes on two cores: one validation, at the end
  common=(warmup_steps=5 n_eval_examples=null do_first_eval=false eval_every=1000000)
  sft=(lr=5e-5 n_epochs=1 batch_size=32 shuffle=prompts)
  case $loss in
    infonca*|nca|swepo*) preference=(lr=5e-5 n_epochs=3 batch_size=8);;  # one example a prompt
    kto) preference=(lr=5e-5 n_epochs=1 batch_size=16 pairs_per_prompt=2);;  # two examples a pair
    *) preference=(lr=5e-5 n_epochs=1 batch_size=16 pairs_per_prompt=4);;
  esac
  evaluation=(n_samples=6 max_new_tokens=48)
else
  common=(optimizer=RMSprop batch_size=32 warmup_steps=150 patience=4 n_epochs=20 shuffle=prompts)
  sft=(lr=5e-7)
  preference=(lr=5e-7)
  evaluation=(n_samples=8)
fi

train() {
  if [ "$NPROC" -gt 1 ]; then "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node="$NPROC" train.py "$@"; else "$PYTHON" train.py "$@"; fi
}

shared=()
for override in "$@"; do [[ $override == loss.* && $loss != sft ]] || shared+=("$override"); done
common+=(model="$MODEL" "datasets=[$DATASET]" output_dir="$OUTPUT_DIR")

first=sft
if [ "$loss" = icf ]; then first=icf; sft+=(icf_shots=3); evaluation+=(few_shot=3); fi
train loss=sft exp_name="$first$suffix" "${common[@]}" "${sft[@]}" ${shared[@]+"${shared[@]}"}
runs="$OUTPUT_DIR/$first$suffix"
if [ "$loss" != "$first" ]; then
  train loss="$loss" exp_name="$loss$suffix" model.archive="$OUTPUT_DIR/sft$suffix" "${common[@]}" "${preference[@]}" "$@"
  runs="$runs,$OUTPUT_DIR/$loss$suffix"
fi
base=$("$PYTHON" -c "from omegaconf import OmegaConf; print(OmegaConf.load('$OUTPUT_DIR/$first$suffix/config.yaml').model.name_or_path)")
"$PYTHON" evaluate.py "ckpt=['$base',$runs]" "output=$OUTPUT_DIR/$loss$suffix/report" "${evaluation[@]}" ${EVAL:-}
