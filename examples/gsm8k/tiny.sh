#!/usr/bin/env bash
# Both steps that replace PPO, reward and rloo, offline on a CPU: the demo's tiny model and its rows. tiny.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
cd "$(dirname "$0")/../.."
export DS_ACCELERATOR=cpu TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore OMP_NUM_THREADS=1

rm -rf "$folder"
echo "1/4  rows, a tiny base model that answers at random, and pairs by somebody who always prefers 'neutral'"
"$python" examples/demo/make_data.py "$folder/data"
"$python" examples/demo/make_base.py "$folder/base"
"$python" examples/gsm8k/make_pairs.py "$folder/data/train.jsonl" "$folder/data/pairs.jsonl" neutral

export JOB_MODEL=$folder/base JOB_WORK_DIR=$folder/work JOB_STRATEGY=cpu JOB_MAX_LENGTH=128
echo "2/4  JOB_METHOD=reward: a model that scores answers by that taste"
JOB_METHOD=reward JOB_DATASET_URI=$folder/data/pairs.jsonl JOB_OUTPUT_URI=$folder/reward JOB_EVAL_FRACTION=0.1 \
  JOB_LEARNING_RATE=2e-3 JOB_NUM_TRAIN_EPOCHS=1 "$python" entrypoint.py

echo "3/4  JOB_METHOD=rloo with that JOB_REWARD_MODEL: the model answers itself, and learns from its scores"
JOB_METHOD=rloo JOB_DATASET_URI=$folder/data/train.jsonl JOB_OUTPUT_URI=$folder/rloo JOB_REWARD_MODEL=$folder/reward \
  JOB_MAX_COMPLETION_LENGTH=4 JOB_GLOBAL_BATCH_SIZE=64 JOB_NUM_GENERATIONS=4 JOB_LEARNING_RATE=2e-3 JOB_MAX_STEPS=40 \
  "$python" entrypoint.py

echo "4/4  the mean reward at the beginning and at the end"
"$python" - "$folder/rloo/metrics.json" <<'END'
import json, sys

history = [entry["values"] for entry in json.load(open(sys.argv[1]))["train"]["history"]]
first, last = (entry["rewards/reward_model/mean"] for entry in (history[0], history[-1]))
print(f"reward model's mean score  {first:.3f} -> {last:.3f}")
sys.exit(last <= first)
END
