# What the commands of cli_pairs.txt wait with: for facts, a minute at most. Read by bash by BASH_ENV.

# becomes CONTAINER TEMPLATE VALUE: until inspect says so
becomes() {
    local deadline=$((SECONDS + 50))
    until [ "$(docker inspect -f "$2" "$1")" = "$3" ]; do
        [ $SECONDS -lt $deadline ] || { echo "$1: $2 is not $3"; return 1; }
        sleep 0.1
    done
}

# says CONTAINER WORD: until its log has it
says() {
    local deadline=$((SECONDS + 50))
    until docker logs "$1" 2>&1 | grep -q "$2"; do
        [ $SECONDS -lt $deadline ] || { echo "$1 does not say $2"; return 1; }
        sleep 0.1
    done
}

# says_nothing CONTAINER: until its processes are there
says_nothing() {
    local deadline=$((SECONDS + 50))
    until [ "$(docker top "$1" -eo pid,args | grep -c 'sleep [23]00$')" = 2 ] || [ $SECONDS -ge $deadline ]; do sleep 0.1; done
}

# gone CONTAINER: until there is none of that name
gone() {
    local deadline=$((SECONDS + 50))
    while docker inspect "$1" >/dev/null 2>&1 && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
}

# while_attached CONTAINER SCRIPT COMMAND...: SCRIPT once COMMAND is attached to it
while_attached() {
    local since name=$1 script=$2 events; shift 2
    since=$(date +%s)
    exec {events}< <(exec docker events --since "$since" --filter "container=$name" --filter event=attach)
    local watcher=$!
    "$@" & local attached=$!
    read -r -t 50 -u $events _; kill $watcher
    bash -c "$script"; wait $attached
}

# on_terminal COMMAND...: with a terminal of its own for input and output
on_terminal() { typed '' "$@"; }

# typed KEYS COMMAND...: KEYS (as printf writes them) typed at a terminal once the command has begun
typed() { python3 "$PAIRS/cli_typing.py" "$@"; }

# signalled SIGNAL COMMAND...: SIGNAL sent to COMMAND once it has said `ready`
signalled() {
    local signal=$1 line; shift
    coproc client { exec "$@"; }
    local pid=$client_PID from=${client[0]}
    read -r -t 50 line <&"$from" && echo "$line"
    kill -s "$signal" "$pid"
    cat <&"$from"
    wait "$pid"; echo "ended with $?"
}

# timed COMMAND...: and for how many seconds, about
timed() {
    local begun=${EPOCHREALTIME/./}; "$@"
    echo "after about $(((${EPOCHREALTIME/./} - begun) / 1000000)) s"
}

# told SINCE: all events since, a line each, without what differs by nature
told() { docker events --since "$1" --until $(($(date +%s)+1)) | cut -d' ' -f2- | sed 's/execDuration=[0-9]*, //'; }
