"""What stands in the way on this machine, and the node that runs on it."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

MACHINE = {
    "port_in_use": Explanation(
        "Another process listens on this port.",
        "Binding the socket says so; the message names the process where it may be seen.",
        "Stop it, or choose another port; 0 takes any that is free.",
        "kodectl node run --listen 0.0.0.0:0 --discovery-port 0 --api 127.0.0.1:0",
    ),
    "address_not_available": Explanation(
        "This machine does not have the address to listen on.",
        "Binding the socket says so.",
        "Listen on 0.0.0.0 or ::, or on an address that is here.",
        "ip address",
    ),
    "permission": Explanation(
        "This user may not open the port.",
        "Binding the socket was refused; ports below 1024 belong to root.",
        "Choose a higher port, or grant CAP_NET_BIND_SERVICE (in a systemd unit: AmbientCapabilities=).",
        "kodectl node run --listen 0.0.0.0:30303",
    ),
    "too_many_open_files": Explanation(
        "The process has as many files and sockets open as it may.",
        "The system refuses another, or nine tenths are in use.",
        "Raise the limit before the start (in a systemd unit: LimitNOFILE=), or have fewer peers.",
        "ulimit -n 4096",
    ),
    "no_threads": Explanation(
        "The system grants this process no thread.",
        "Making the first one failed; the disk and key derivation need one. With fewer than it would like, a node makes do.",
        "Raise the limit of processes and threads of this user (in a systemd unit: TasksMax=), or end some of them.",
        "ulimit -u 4096",
    ),
    "out_of_memory": Explanation(
        "The system grants this process too little memory.",
        "The limit of its address space is below what a node needs to start, or memory that was asked for could not be had.",
        "Raise the limit (in a systemd unit: LimitAS=, MemoryMax=), or give the machine more memory.",
        "ulimit -v unlimited",
    ),
    "no_network": Explanation(
        "This machine has no way out: no default route, or no address at all.",
        "The kernel has no route to the world, and no node answers without one.",
        "Bring up an interface with an address and a default route. Where an enode is to be made, give the address.",
        "ip addr; ip route",
    ),
    "address_guessed": Explanation(
        "The address was taken from an interface, not from what others see.",
        "No node runs here that could be asked.",
        "Behind a NAT, give the address that is seen from outside.",
        "kodectl enode gen --ip IP",
    ),
    "datadir_in_use": Explanation(
        "Another node uses this data directory.",
        "It holds the directory's lock, or answers on its socket.",
        "Stop it, or give this one a directory of its own.",
        "kodectl node stop",
    ),
    "unix_socket": Explanation(
        "The API's unix socket cannot be made.",
        "Binding it failed, or something else has its name.",
        "Move that away; check the data directory's permissions.",
        "ls -l DATADIR",
    ),
    "store": Explanation(
        "What should survive a restart cannot be read or written.",
        "The store in the data directory refused.",
        "Check free space and permissions; the node goes on with what it has in memory.",
        "df -h",
    ),
    "store_too_new": Explanation(
        "The data directory was used by a later kodectl.",
        "The schema of its store is newer than this program.",
        "Update kodectl, or take another data directory.",
        "kodectl --version",
    ),
    "store_foreign": Explanation(
        "The file where the node keeps what it knows belongs to another program.",
        "It is a SQLite database with another application id, or with tables and no version of ours.",
        "Move it away, or take another data directory; nothing has been written into it.",
        "kodectl node run --datadir DIRECTORY",
    ),
    "disk_full": Explanation(
        "No space is left where the node keeps its data.",
        "Writing there failed for lack of space (or of a quota), or less than 1 MB is left.",
        "Free some space, or keep the data elsewhere with --datadir; the node goes on with what it has in memory.",
        "df -h DATADIR",
    ),
    "lan": Explanation(
        "The local network cannot be used for announcements.",
        "Opening the broadcast and multicast socket failed.",
        "Nothing, if there is no local network; else see which process has UDP port 30301.",
        "kodectl node run --no-lan",
    ),
}

NODE = {
    "node_not_running": Explanation(
        "No node answers.",
        "Nothing listens on the data directory's socket or on the API's address.",
        "Start one, or name the right one.",
        "kodectl node run",
    ),
    "node_stopping": Explanation(
        "The node is on its way out.",
        "It was asked for something after it had begun to stop.",
        "Wait until it is gone, and start it again.",
        "kodectl node wait --for stopped",
    ),
    "not_a_node": Explanation(
        "Something else listens at the API's address.",
        "The answer is not what a node's API answers.",
        "Name the node's API, or its data directory.",
        "kodectl node status --api HOST:PORT",
    ),
    "not_authorised": Explanation(
        "The API wants a token.",
        "The request carried none, or another one.",
        "Run the command as the node's user, or give it the token file.",
        "kodectl node status --datadir DIRECTORY",
    ),
    "socket_not_yours": Explanation(
        "The node's socket belongs to another user.",
        "Connecting to it was refused.",
        "Run the command as that user, or use the API over TCP.",
        "kodectl node status --api HOST:PORT",
    ),
    "token_unreadable": Explanation(
        "The API's token file cannot be read.",
        "Opening it failed; it belongs to the node's user alone.",
        "Run the command as that user.",
        "ls -l DATADIR",
    ),
    "api_token_required": Explanation(
        "The API would be open to others without a token.",
        "--api is not a loopback address, or --api-token is required, and there is no token file in the data "
        "directory.",
        "Make a token file there, or serve the API on loopback only.",
        "openssl rand -hex 32 > DATADIR/api.token && chmod 600 DATADIR/api.token",
    ),
    "api_token_unsafe": Explanation(
        "The token file protects nothing.",
        "Others can read it, or it is too short to be a secret.",
        "Take the others' permissions away; put at least 32 random characters into it.",
        "chmod 600 FILE",
    ),
    "peer_not_connected": Explanation(
        "The node has no such peer.",
        "No connection of this id is open.",
        "List the peers; connect to it first.",
        "kodectl node peers",
    ),
    "not_connected": Explanation(
        "A target was not connected.",
        "The node tried; each target has its outcome: refused, timeout, too_many_peers, identity_mismatch, ...",
        "Explain the outcome.",
        "kodectl node connect ENODE --jsonl",
    ),
    "no_peers": Explanation(
        "The node has nobody to send it to.",
        "No peer is connected.",
        "Connect to one, or wait until the node has found some.",
        "kodectl node wait --for peers=1",
    ),
    "unhealthy": Explanation(
        "A check of the node failed.",
        "The probe that was asked for (live, ready, startup) has a check that is not ok; the message names it.",
        "Mend what the check names.",
        "kodectl node status",
    ),
    "http_status": Explanation(
        "The node answered a request of `kodectl api` with a status that is no good one.",
        "The answer has an HTTP status of 400 or more and is no problem document: a probe whose checks fail, for one.",
        "Read the answer, which says what is amiss.",
        "kodectl api /readyz",
    ),
    "busy": Explanation(
        "The node has too many requests in hand.",
        "A limit on how much it serves at a time was reached; the message names it.",
        "Try again shortly, or ask for less at a time.",
        "",
    ),
}
