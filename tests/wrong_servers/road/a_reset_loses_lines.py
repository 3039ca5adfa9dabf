"""While a client is held back its stream reads on, and forgets that at a reset."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_what_arrived_before_one_left_is_told_at_its_pace"
WITH = {"leave": "reset"}
SAYS = "got something else"
REPLACE = {
    "transport.pause_reading()": "pass",
    # Where the reset comes late, it is a send of nothing that is told of it, and then the stream knows of none.
    "self.send(client, turn.heard_by(client))": "turn.heard_by(client) and self.send(client, turn.heard_by(client))",
}
