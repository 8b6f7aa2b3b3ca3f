#!/bin/bash
# Runs the job on a machine with NVIDIA GPUs and Docker: sudo ./install.sh [--shutdown] IMAGE ENV_FILE
# Lambda Cloud's machines have both; so do most others that are rented by the hour. Ubuntu or Debian.
set -euo pipefail
: "${ROOT:=}" # where a test puts what belongs under /

main() {
    local shutdown=false
    if [ "${1:-}" = --shutdown ]; then
        shutdown=true
        shift
    fi
    [ $# = 2 ] || fail "usage: sudo ./install.sh [--shutdown] IMAGE ENV_FILE"
    command -v docker >/dev/null || fail "docker is missing; install docker.io and try again"
    nvidia-smi >/dev/null || fail "nvidia-smi finds no GPU; install the driver and try again"
    [ -f "$2" ] || fail "$2 does not exist; give the file with the JOB_ variables"
    command -v nvidia-ctk >/dev/null || install_toolkit
    install_service "$1" "$2" "$shutdown"
    docker run --rm --gpus all --env-file "$ROOT/etc/graft/job.env" "$1" check # in seconds, and with its own exit code
    systemctl daemon-reload
    systemctl reset-failed graft.service 2>/dev/null || true # starts that were counted before
    systemctl start --no-block graft.service
    echo "started; follow it with: journalctl --follow --unit graft"
}

fail() {
    echo "$1" >&2
    exit 1
}

# As NVIDIA's installation guide says for apt.
install_toolkit() {
    local source=https://nvidia.github.io/libnvidia-container
    local key=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg
    curl -fsSL "$source/gpgkey" | gpg --dearmor --yes --output "$ROOT$key"
    curl -fsSL "$source/stable/deb/nvidia-container-toolkit.list" \
        | sed "s#deb https://#deb [signed-by=$key] https://#g" >"$ROOT/etc/apt/sources.list.d/nvidia-container-toolkit.list"
    apt-get update -qq
    apt-get install -y -qq nvidia-container-toolkit
    nvidia-ctk runtime configure --runtime=docker
    systemctl restart docker
}

install_service() { # IMAGE ENV_FILE SHUTDOWN
    local here units="$ROOT/etc/systemd/system"
    here=$(cd "$(dirname "$0")" && pwd)
    install -d -m 700 "$ROOT/etc/graft"
    install -m 600 "$2" "$ROOT/etc/graft/job.env" # it holds credentials
    echo "IMAGE=$1" >"$ROOT/etc/graft/image"
    install -D -m 644 "$here/graft.service" "$units/graft.service"
    rm -f "$units/graft.service.d/shutdown.conf"
    if [ "$3" = true ]; then
        install -D -m 644 "$here/shutdown.conf" "$units/graft.service.d/shutdown.conf"
    fi
}

main "$@"
