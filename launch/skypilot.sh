#!/usr/bin/env bash
# What each node of a SkyPilot task does; the search's command is this script's arguments.
#
# The first node starts a Ray head, runs the search and ends Ray; the others join it and end when it does. SkyPilot may
# run a Ray of its own on these machines, on another port: `ray stop` would end that one too, so it isn't used.

set -euo pipefail

head_ip=${SKYPILOT_NODE_IPS%%$'\n'*}
port=${EVOMERGE_RAY_PORT:-6385}
export RAY_ADDRESS="$head_ip:$port" RAY_USAGE_STATS_ENABLED=0
# Seconds for a worker to come up; a new disk may take long for what it imports. Ray's own choice is a minute.
export RAY_worker_register_timeout_seconds=${RAY_worker_register_timeout_seconds:-300}
wait_s=${EVOMERGE_WAIT_S:-900}

up() {
    ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1
}

# Waits until the command given succeeds.
await() {
    local until=$((SECONDS + wait_s))
    until "$@"; do
        if ((SECONDS >= until)); then
            echo "skypilot.sh: waited $wait_s s in vain for: $*" >&2
            exit 1
        fi
        sleep 2
    done
}

nodes_are_there() {
    python -c '
import sys, ray
ray.init(log_to_driver=False, logging_level="error")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))' "$SKYPILOT_NUM_NODES"
}

if [[ $SKYPILOT_NODE_RANK -eq 0 ]]; then
    ray start --head --block --port="$port" --node-ip-address="$head_ip" --dashboard-port=8267 &
else
    await up
    ray start --block --address="$RAY_ADDRESS" &
fi
ray=$!
trap 'kill "$ray" 2>/dev/null && wait "$ray" || true' EXIT

if [[ $SKYPILOT_NODE_RANK -eq 0 ]]; then
    await up
    await nodes_are_there
    "$@"
else
    while up; do sleep 10; done
fi
