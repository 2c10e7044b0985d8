"""Which address the node believes to be seen at."""

from kodectl.node.observed import MAX_VOTERS, VOTE_VALIDITY_S, ObservedAddress


def votes(*ips: str, now: float = 0.0) -> ObservedAddress:
    observed = ObservedAddress()
    for number, ip in enumerate(ips):
        observed.vote(bytes([number]) * 32, ip, now)
    return observed


def test_the_address_of_more_than_half_counts():
    assert votes("20.0.0.1", "20.0.0.1", "20.0.0.2").address(0.0) == "20.0.0.1"
    assert votes("20.0.0.1", "20.0.0.2").address(0.0) is None
    assert votes().address(0.0) is None


def test_each_node_has_one_vote():
    observed = ObservedAddress()
    for _ in range(5):
        observed.vote(b"a" * 32, "20.0.0.1", 0.0)
    observed.vote(b"b" * 32, "20.0.0.2", 0.0)
    observed.vote(b"c" * 32, "20.0.0.2", 0.0)
    assert observed.address(0.0) == "20.0.0.2"


def test_votes_age_and_are_bounded():
    assert votes("20.0.0.1").address(VOTE_VALIDITY_S + 1) is None
    observed = ObservedAddress()
    for number in range(MAX_VOTERS * 2):
        observed.vote(number.to_bytes(32), "20.0.0.1" if number < MAX_VOTERS else "20.0.0.2", 0.0)
    assert observed.address(0.0) == "20.0.0.2"


def test_neighbours_on_the_same_machine_are_not_asked():
    assert votes("127.0.0.1", "127.0.0.1", "20.0.0.1").address(0.0) == "20.0.0.1"
    assert votes("::1").address(0.0) is None
