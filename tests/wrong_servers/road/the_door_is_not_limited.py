"""Names may be tried as fast as one likes."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_nobody_is_faster_than_the_limits"
SAYS = "lines of b'error"
REPLACE = {
    "client.lines.take(1)": "client.lines.take(client.name is not None)",
}
