"""Lines that nobody hears are not counted."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_nobody_is_faster_than_the_limits"
SAYS = "blank lines cost nothing"
REPLACE = {
    "client.lines.take(1)": 'client.lines.take(not client.waiting.startswith("\\n"))',
}
