#!/bin/sh
# A copy of the command orchestrator (docs/orchestrators/command.md): a gateway that works for one wagon, and a consumer
# in any language beside it. If one of the two ends, so does the other, and the orchestrator starts both again.
#
# The train's number of workers is the number of copies. WORKERS is how many events each of them handles at a time (8).
#
#   sh serve.sh app:train node consumer.mjs
target=$1
shift
leaving=
trap 'leaving=1' TERM # it goes to the whole process group, so to both; this shell waits for them

export GATEWAY="http://127.0.0.1:$EVENTWAGON_PORT"
eventwagon gateway "$target" --work --wagon "$EVENTWAGON_UNIT" --workers "${WORKERS:-8}" --port "$EVENTWAGON_PORT" &
gateway=$!
"$@" &
consumer=$!
while kill -0 "$gateway" 2> /dev/null && kill -0 "$consumer" 2> /dev/null; do sleep 1; done
if [ -z "$leaving" ]; then kill "$gateway" "$consumer" 2> /dev/null; fi # a second signal would end the gateway at once
wait "$gateway"
wait "$consumer"
