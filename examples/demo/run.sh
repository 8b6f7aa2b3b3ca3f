#!/usr/bin/env bash
# The demo: tiny base model → fine-tuning through the real entrypoint → base against tuned. run.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
cd "$(dirname "$0")/../.."
export DS_ACCELERATOR=cpu TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore # the demo's own words only

rm -rf "$folder"
echo "1/3  rows and a tiny base model, pretrained on the spot to answer at random"
"$python" examples/demo/make_data.py "$folder/data"
"$python" examples/demo/make_base.py "$folder/base"

echo "2/3  fine-tuning: python entrypoint.py with the settings of examples/demo/demo.env"
set -a
. examples/demo/demo.env
set +a
"$python" entrypoint.py

echo "3/3  base against tuned"
"$python" examples/demo/score.py "$folder/base" "$folder/output/adapter" "$folder/data/test.jsonl"
echo
echo "adapter  $folder/output/adapter"
echo "metrics  $folder/output/metrics.json"
echo "proof    $folder/output/manifest.json"
