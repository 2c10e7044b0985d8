"""What the API refuses, and its WebSocket."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

HTTP = {
    "body_too_large": Explanation(
        "The body of a request is larger than the API takes there.",
        "The length that the request announces, or that came, is over the limit of its route. Nothing of it was used.",
        "Send less: a block has at most 4 MiB, a transaction 64 KiB, a value of the hash table 1,000 bytes.",
        "kodectl api --list",
    ),
    "headers_too_large": Explanation(
        "The headers of a request are larger than the API takes.",
        "Their size, or that of a single line, is over the limit.",
        "Send fewer: cookies of other programs on localhost are often among them.",
        "kodectl api /livez",
    ),
    "uri_too_long": Explanation(
        "The path and query of a request are longer than the API takes.",
        "The first line of the request is over the limit.",
        "Send long values in the body; the routes and their parameters are in docs/api.md.",
        "kodectl api --list",
    ),
    "incomplete_body": Explanation(
        "The body of a request ended early.",
        "Fewer bytes came than the request announced, and then its end.",
        "Send it whole; a proxy or a client that gave up in the middle looks like this.",
        "",
    ),
    "malformed_body": Explanation(
        "The body of a request is not the JSON that the route takes.",
        "It does not parse, lacks a field, has one that is unknown, or one of another type; the message names it.",
        "Compare it with the schema of the route in /openapi.json.",
        "kodectl api /openapi.json",
    ),
    "malformed_request": Explanation(
        "What came is not HTTP that the API takes.",
        "Its first line or one of its headers does not parse, or the connection ended before all of them had come.",
        "Send HTTP/1.1, and plainly: TLS is for a proxy in front of the API.",
        "kodectl api /livez",
    ),
    "media_type_not_supported": Explanation(
        "The API takes JSON only.",
        "The request has a body, and its Content-Type is another one or missing. No web form can say it.",
        "Send JSON, and say so.",
        "curl -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:8545/api/network/rediscover",
    ),
    "transfer_encoding_not_supported": Explanation(
        "The API takes no transfer encoding but chunked.",
        "The header Transfer-Encoding names another one.",
        "Send the body plainly, with its length, or in chunks.",
        "",
    ),
    "request_timeout": Explanation(
        "A request came too slowly.",
        "Its headers or its body were not complete within the limit.",
        "Send it at once; a connection that is opened in advance and left idle is closed like this, and opened anew at need.",
        "",
    ),
    "host_not_allowed": Explanation(
        "The API does not answer to this host name: any web page could have its own name lead to this machine.",
        "The Host header is neither a loopback address nor localhost, nor a name that was configured.",
        "Use 127.0.0.1 or localhost, or configure the name by which it is reached.",
        "kodectl node run --api-name NAME",
    ),
    "origin_not_allowed": Explanation(
        "A web page of another origin asked.",
        "The Origin header, which browsers set, is not the API's own.",
        "Pages of other origins are not served; let a program of your own ask in their place.",
        "",
    ),
    "method_not_allowed": Explanation(
        "The route does not take this method.",
        "There is a route at this path, with other methods: they are in the Allow header of the answer.",
        "Use one of those.",
        "kodectl api --list",
    ),
    "route_not_found": Explanation(
        "The API has no such route.",
        "Nothing is at the path of the request.",
        "Correct it; every route is in docs/api.md and in /openapi.json.",
        "kodectl api --list",
    ),
    "malformed_message": Explanation(
        "A message on the WebSocket is not one that the node knows.",
        "It is not JSON, has another op than subscribe and unsubscribe, or a field that these do not have.",
        "Send one of the two; docs/api.md shows them.",
        "kodectl node events",
    ),
    "upgrade_required": Explanation(
        "A request that is no upgrade to a WebSocket came to /ws.",
        "Upgrade, Connection or Sec-WebSocket-Version (13) is missing or another one, or it is not HTTP/1.1.",
        "Connect with a WebSocket client, or poll /api/events. A proxy in between must pass upgrades on.",
        "kodectl node events",
    ),
    "unknown_topic": Explanation(
        "There is no topic or type of events by this name.",
        "It is none of the topics (node, peer, nat, dht, message), nor one of the types that belong to them.",
        "Name a topic, or a type such as block, transaction or peer_connected; docs/api.md has them all.",
        "kodectl node events --topic message",
    ),
}
