#!/usr/bin/env bash
# Makes the two locks from pyproject.toml:
#   locks/image.txt  the image's: runtime + deepspeed, torch's CUDA build and its libraries included
#   locks/dev.txt    the developer's: the same packages at the same versions and hashes without torch and its CUDA
#                    packages (a CPU build's hash is not a public one), plus the dev group
# and beside them, for none of these
#   locks/sbom.txt   the tool that lists what is in the image
#   locks/store.txt  the S3 server of deploy/compose
# Versions that are locked stay unless asked for: scripts/lock.sh --upgrade | --upgrade-package NAME
set -euo pipefail
cd "$(dirname "$0")/.."

# --universal with "fewest": one version of each package that fits Python 3.11 and 3.12 alike.
compile() {
    uv pip compile pyproject.toml --extra deepspeed --generate-hashes --universal --fork-strategy fewest \
        --python-version 3.11 --no-annotate --custom-compile-command "make lock" --quiet "$@"
}

compile --constraints locks/torch.txt --output-file locks/image.txt "$@"

# The `nvidia-` names are CUDA's but for nvidia-ml-py, which reads the driver and belongs to both.
mapfile -t cuda < <(grep -oP '^(torch|triton|cuda-[\w-]+|nvidia-(?!ml-py)[\w-]+)(?===)' locks/image.txt)
compile --constraints locks/image.txt --extra deploy --group dev "${cuda[@]/#/--no-emit-package=}" --output-file locks/dev.txt "$@"

for tool in sbom store; do
    uv pip compile --group "$tool" --constraints locks/dev.txt --generate-hashes --universal --python-version 3.11 --no-annotate \
        --custom-compile-command "make lock" --quiet --output-file "locks/$tool.txt" "$@"
done
