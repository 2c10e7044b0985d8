"""The whole command tree. A module named here is imported when one of its commands is."""

from __future__ import annotations

from kodectl.cli.command import Branch

TREE: dict[str, str | Branch] = {
    "node": Branch(
        "Run a node, and operate the one that runs.",
        {
            "run": "kodectl.cli.node_run:run",
            "status": "kodectl.cli.node_show:status",
            "stop": "kodectl.cli.node_watch:stop",
            "wait": "kodectl.cli.node_watch:wait",
            "health": "kodectl.cli.node_watch:health",
            "peers": "kodectl.cli.node_show:peers",
            "connect": "kodectl.cli.node_order:connect",
            "disconnect": "kodectl.cli.node_order:disconnect",
            "ban": "kodectl.cli.node_order:ban",
            "unban": "kodectl.cli.node_order:unban",
            "stats": "kodectl.cli.node_show:stats",
            "latency": "kodectl.cli.node_show:latency",
            "bootstrap": "kodectl.cli.node_show:bootstrap",
            "rediscover": "kodectl.cli.node_order:rediscover",
            "table": "kodectl.cli.node_show:table_",
            "broadcast": "kodectl.cli.node_order:broadcast",
            "events": "kodectl.cli.node_events:events",
            "top": "kodectl.cli.node_top:top",
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
    "nat": Branch(
        "Know the NAT, open its ports, serve others.",
        {
            "probe": "kodectl.cli.nat_probe:probe",
            "watch": "kodectl.cli.nat_probe:watch",
            "map": "kodectl.cli.nat_map:map_",
            "mappings": "kodectl.cli.nat_map:mappings",
            "unmap": "kodectl.cli.nat_map:unmap",
            "punch": "kodectl.cli.nat_punch:punch",
            "serve": "kodectl.cli.nat_serve:serve",
        },
    ),
    "peer": Branch("Ask one peer.", {"ping": "kodectl.cli.peer:ping"}),
    "dht": Branch(
        "Ask the distributed hash table, without a running node.",
        {
            "find-node": "kodectl.cli.dht:find_node",
            "put": "kodectl.cli.dht:put",
            "get": "kodectl.cli.dht:get",
            "crawl": "kodectl.cli.dht_crawl:crawl",
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
    "doctor": "kodectl.cli.doctor:doctor",
    "sim": "kodectl.cli.sim:sim",
    "api": "kodectl.cli.api:api",
    "explain": "kodectl.cli.explain:explain",
    "completion": "kodectl.cli.completion:completion",
    "man": "kodectl.cli.man:man",
}
