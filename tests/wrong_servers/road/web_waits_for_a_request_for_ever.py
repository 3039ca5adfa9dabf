"""A request has no time limit."""

STEP = "web"
FOUND_BY = "test_road_web.test_a_request_that_never_ends_is_dropped_and_holds_up_nobody"
SAYS = "they are still there"
REPLACE = {
    "HANDSHAKE_TIME = 5 ": "HANDSHAKE_TIME = 5000 ",
}
