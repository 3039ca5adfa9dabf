"""A TLS handshake has no time limit."""

STEP = "tls"
FOUND_BY = "test_road_tls.test_a_handshake_that_never_ends_is_dropped_and_holds_up_nobody"
SAYS = "they are still there"
REPLACE = {
    "HANDSHAKE_TIME = 5 ": "HANDSHAKE_TIME = 5000 ",
}
