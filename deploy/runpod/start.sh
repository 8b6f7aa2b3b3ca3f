#!/bin/bash
# What a RunPod pod runs: the job, and then the end of the pod unless running it again may help. RunPod starts a container
# again whose command has ended, and bills a pod until it is stopped.
# AT_END is stop (the default), terminate (which also removes the pod's own volume) or keep. Exit codes are generated from
# job/errors.py by `make generate`.
set -uo pipefail
RETRY_CODES="70 75 83 84"
: "${AT_END:=stop}" "${GRAFT_PYTHON:=/opt/venv/bin/python}" "${GRAFT_ENTRYPOINT:=/app/entrypoint.py}"
: "${RUNPOD_API:=https://rest.runpod.io/v1}" "${LINGER_S:=600}"

"$GRAFT_PYTHON" "$GRAFT_ENTRYPOINT" "$@" &
job=$!
trap 'kill -TERM "$job" 2>/dev/null' TERM INT
wait "$job"
code=$?
while kill -0 "$job" 2>/dev/null; do # a signal ends a wait, and the job saves a checkpoint first
    wait "$job"
    code=$?
done

case " $RETRY_CODES " in *" $code "*) exit "$code" ;; esac
case "$AT_END" in
    stop) method=POST path="pods/$RUNPOD_POD_ID/stop" ;;
    terminate) method=DELETE path="pods/$RUNPOD_POD_ID" ;;
    *) sleep infinity ;; # an end would start the container again
esac
# The image has no curl. The key comes from the environment and stands in no argument.
"$GRAFT_PYTHON" - "$method" "$RUNPOD_API/$path" <<'PYTHON'
import os, sys, urllib.request
method, url = sys.argv[1:]
bearer = {"Authorization": "Bearer " + os.environ["RUNPOD_API_KEY"]}
urllib.request.urlopen(urllib.request.Request(url, method=method, headers=bearer), timeout=60)
PYTHON
echo "the job ended with $code; $method $path: status $?" >&2
sleep "$LINGER_S" # until RunPod takes the pod away; if it does not, the job is started once more and ends as it did
exit "$code"
