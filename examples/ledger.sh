#!/bin/bash
# The ledger of ledger.py with curl, jq and, if it is there, websocat.
#
#     ledger.sh follow              keeps the ledger, and tells what happens
#     ledger.sh add "rent: 700"     publishes an entry, as a transaction
#     ledger.sh seal                publishes a block of the entries that wait
#     ledger.sh show                prints the ledger: what is sealed by height, then what waits
#
# API names the node: HOST:PORT (127.0.0.1:8545), or the socket in its data directory, which asks for no token. LEDGER names the
# file (ledger.jsonl). It is both what came and the place in the events: each line has the number of its event, and one append
# keeps both.
set -euo pipefail

api=${API:-127.0.0.1:8545}
ledger=${LEDGER:-ledger.jsonl}
case $api in
*/*) curl=(curl --unix-socket "$api") url=http://node websocket=(--ws-c-uri=ws://node/ws - "ws-c:unix:$api") ;;
*) curl=(curl) url="http://$api" websocket=("ws://$api/ws") ;;
esac

line_bytes=8388608 # A block of 4 MiB is one line of 5.6 MB, and websocat would split what is longer than its buffer.
retry_s=1
poll_s=30

# -- events, one a line: from the WebSocket, or by asking again and again with a long poll -----------------------------

websocket_events() {
    jq -nc --argjson since "$1" --arg run "$2" \
        '{op: "subscribe", topics: ["block", "transaction"], since: $since} + if $run == "" then {} else {run: $run} end' |
        websocat -n -t -B "$line_bytes" --ping-interval 30 --ping-timeout 75 "${websocket[@]}"
}

polled_events() {
    local since=$1 run=$2 page
    while page=$("${curl[@]}" -fsS -G "$url/api/events" -d topics=block,transaction \
        -d timeout="$poll_s" -d since="$since" ${run:+--data-urlencode run="$run"}); do
        jq -c '{type: "subscribed", run}, (select(.missed != 0) | {type: "gap", missed}), .events[]' <<<"$page"
        read -r since run < <(jq -r '"\(.next) \(.run)"' <<<"$page")
    done
}

events() {
    if command -v websocat >/dev/null; then websocket_events "$@"; else polled_events "$@"; fi
}

# -- the ledger --------------------------------------------------------------------------------------------------------

# A line for each message, with the run of the node that numbered it.
lines='foreach inputs as $message ({};
    if $message.type == "subscribed" then {run: $message.run} else {run, $message} end;
    .run as $run | .message | select(. != null) |
    if .type == "gap" then "gap: \(.missed // "unknown") events are gone\n" | stderr | empty
    else {seq, run: $run, type, id: .data.id, origin: .data.origin, content: (.data.payload | @base64d | fromjson? // null)} end)'

# What is well made, by id. Of two chains the longer holds, of two as long the one whose last block has the smaller id.
book='def is_id: type == "string" and length == 64 and (explode | all((48 <= . and . <= 57) or (97 <= . and . <= 102)));
    map(select(.content | type == "object")) |
    (map(select(.type == "transaction" and (.content.text | type == "string"))) | unique_by(.id) | sort_by(.run, .seq)) as $came |
    map(select(.type == "block" and (.content | (.entries | type == "array") and (.height | type == "number" and . > 0)))) |
    INDEX(map(.content.entries |= map(select(is_id))[:1000])[]; .id) as $blocks |
    ([$blocks[]] | sort_by(-.content.height, .id) | .[0]) as $tip |
    ([$tip // empty | recurse($blocks[.content.parent // "" | tostring] // empty)] | reverse) as $chain |
    INDEX($came[]; .id) as $entries | INDEX($chain[].content.entries[]; .) as $sealed |
    [$came[].id | select($sealed[.] == null)] as $waiting |'

case ${1:-} in
follow | seal | show) touch "$ledger" ;;
esac

case ${1:-} in
follow)
    pipeline=
    set -m # The pipeline gets a process group of its own, so that all of it can be ended.
    trap 'kill -- "-$pipeline" 2>/dev/null' EXIT
    while :; do
        # A line that was cut off by the end of its writer is asked for again.
        [ -z "$(tail -c 1 "$ledger")" ] || sed -i '$d' "$ledger"
        read -r since run < <(tail -n 1 "$ledger" | jq -nr 'input? // {seq: 0, run: ""} | "\(.seq) \(.run)"')
        events "$since" "$run" | jq -nc --unbuffered "$lines" | tee -a "$ledger" |
            jq -r --unbuffered '"\(.type) \(.id[:8]) of \(.origin[:8])"' &
        pipeline=$(jobs -p)
        wait || true
        sleep "$retry_s"
    done
    ;;
add | seal)
    if [ "$1" = add ]; then
        kind=transaction content=$(jq -nc --arg text "$2" '{$text}')
    else
        kind=block
        content=$(jq -sc "$book"'{parent: $tip.id, height: (($tip.content.height // 0) + 1), entries: $waiting[:1000]}' "$ledger")
    fi
    jq -nc --arg type "$kind" --arg content "$content" '{$type, payload: ($content | @base64)}' |
        "${curl[@]}" -sS --json @- "$url/api/network/broadcast" |
        jq -r 'if .id then .id else "the node: \(.detail)\n" | halt_error(1) end'
    ;;
show)
    # As JSON and without further control characters: what strangers write must not be obeyed by a terminal.
    jq -sr "$book"'($chain[] | "\(.content.height) \(.content.entries[])"), "- \($waiting[])" | split(" ") |
        "\(.[0]) \(.[1][:8]) \($entries[.[1]].content.text | tojson)" |
        explode | map(select(. < 127 or . > 159)) | implode' "$ledger"
    ;;
*)
    sed '1d; /^#/!Q; s/^# \{0,1\}//' "$0" >&2
    exit 2
    ;;
esac
