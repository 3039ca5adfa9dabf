"""While a client is held back its stream reads on, and forgets that at a reset."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_what_arrived_before_one_left_is_told_at_its_pace"
WITH = {"leave": "reset"}
SAYS = "got something else"
REPLACE = {
    "transport.pause_reading()": "pass",
}
