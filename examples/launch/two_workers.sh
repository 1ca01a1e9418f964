#!/usr/bin/env bash
# Trains with two workers. Here both are on this machine, as one tries it out; on two machines, run the line of each
# worker on its own, with addresses that the other one can reach, and the same images on both.
#
#   examples/launch/two_workers.sh FOLDER RUN [OPTION …]
set -euo pipefail

pids=()
workers='"localhost:2222", "localhost:2223"'
for index in 1 0; do
    export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
    keras-sgdr train "$1" -o "$2" "${@:3}" &
    pids+=("$!")
done
for pid in "${pids[@]}"; do
    wait "$pid" # fails if this worker did; the other one ends then too
done
