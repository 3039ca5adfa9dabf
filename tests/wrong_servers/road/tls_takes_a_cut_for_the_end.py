"""A connection that somebody has cut is taken for one that has ended, and half a line for a message."""

STEP = "tls"
FOUND_BY = "test_road_tls.test_a_connection_cut_off_is_no_end_of_a_line"
WITH = {"end": "die"}
SAYS = "got something else"
REPLACE = {
    'raise OSError("connection cut off") from None': 'return b""',
}
