#!/bin/sh
# A wagon's consumer without Python: sh and redis-cli, for a train in Redis Streams. It runs HANDLER for each event, the
# payload on its stdin; exit code 0: handled. Otherwise the event comes again when its claim has run out, and after five
# attempts it goes to the dead letters.
#
#   sh consumer.sh HANDLER [ARGUMENT…]
#
# The command orchestrator starts it, and says in the environment where: see docs/orchestrators/command.md.
set -eu
stream=$EVENTWAGON_INGRESS
visible=${VISIBLE_MS:-30000} # how long an event is this consumer's; also the consumer's name, which says it to the observers
leaving=
trap 'leaving=1' TERM

# SIGTERM goes to the whole process group: what is in hand is to be finished, so all but this shell ignores it
redis() { (trap '' TERM && exec redis-cli -e -u "${EVENTWAGON_URL%%\?*}" "$@"); }

settle() { # once it is handled, in one step: removed from the stream, the claim dropped
    redis EVAL "redis.call('XDEL', KEYS[1], ARGV[1]) redis.call('XACK', KEYS[1], 'eventwagon', ARGV[1])" 1 "$stream" "$1" \
        > /dev/null
}

bury() { # to the dead letters, with why and where
    redis EVAL "local fields = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1][2]
        for i = 2, #ARGV do fields[#fields + 1] = ARGV[i] end
        return redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', unpack(fields))" 2 "$stream" "$EVENTWAGON_DEAD_LETTERS" "$1" \
        deadbecause "its handler failed" deadchannel "" deadwagon "$EVENTWAGON_WAGON" deadattempts "$2" deadat "$(date +%s)" \
        > /dev/null
}

claim() { # one event, as "ID ATTEMPT": first one whose claim has run out, else a new one, for which it waits half a second
    trap '' TERM
    late=$(redis XPENDING "$stream" eventwagon IDLE "$visible" - + 1)
    if [ -n "$late" ]; then
        id=$(echo "$late" | sed -n 1p)
        taken=$(redis XCLAIM "$stream" eventwagon "$visible" "$visible" "$id")
        if [ -n "$taken" ]; then echo "$id $(($(echo "$late" | sed -n 4p) + 1))"; fi
    else
        id=$(redis XREADGROUP GROUP eventwagon "$visible" COUNT 1 BLOCK 500 STREAMS "$stream" '>' | sed -n 2p)
        if [ -n "$id" ]; then echo "$id 1"; fi
    fi
}

redis XINFO STREAM "$stream" > /dev/null
echo "serving $stream"
while [ -z "$leaving" ]; do
    event=$(claim)
    if [ -z "$event" ]; then continue; fi
    id=${event% *} attempt=${event#* }
    data=$(redis EVAL "local event = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
        for i = 1, event and #event[2] or 0, 2 do
            if event[2][i] == 'data' then return 'data:' .. event[2][i + 1] end
        end" 1 "$stream" "$id")
    if [ -z "$data" ]; then # another has handled it meanwhile
        settle "$id"
    elif printf %s "${data#data:}" | (trap '' TERM && exec "$@"); then
        settle "$id"
    elif [ "$attempt" -ge 5 ]; then
        bury "$id" "$attempt"
        settle "$id"
    fi
done
