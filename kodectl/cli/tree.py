"""The whole command tree. A module named here is imported when one of its commands is."""

from __future__ import annotations

from kodectl.cli.command import Branch

TREE: dict[str, str | Branch] = {
    "node": Branch(
        "Run a node, and operate the one that runs.",
        {
            "run": "kodectl.cli.node_run:run",
        },
    ),
    "key": Branch(
        "Make and look after identities.",
        {
            "gen": "kodectl.cli.key:gen",
            "show": "kodectl.cli.key:show",
            "id": "kodectl.cli.key:id_",
            "passwd": "kodectl.cli.key:passwd",
        },
    ),
    "enode": Branch(
        "Write, read and check enodes: who a node is, and where.",
        {
            "gen": "kodectl.cli.enode:gen",
            "parse": "kodectl.cli.enode:parse",
            "verify": "kodectl.cli.enode:verify",
        },
    ),
    "peer": Branch("Ask one peer.", {"ping": "kodectl.cli.peer:ping"}),
    "dht": Branch(
        "Ask the distributed hash table, without a running node.",
        {
            "find-node": "kodectl.cli.dht:find_node",
            "put": "kodectl.cli.dht:put",
            "get": "kodectl.cli.dht:get",
        },
    ),
    "config": Branch(
        "See, check and begin the configuration.",
        {
            "show": "kodectl.cli.config:show",
            "check": "kodectl.cli.config:check",
            "init": "kodectl.cli.config:init",
        },
    ),
    "explain": "kodectl.cli.explain:explain",
    "completion": "kodectl.cli.completion:completion",
    "man": "kodectl.cli.man:man",
}
