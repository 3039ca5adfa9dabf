"""When the server stops, lines that it has read, and holds back, are not told."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_what_was_read_is_told_at_once_when_the_server_stops"
SAYS = "ana says: line"
REPLACE = {
    "if pause and not self.stopping.is_set():": "if pause:",
}
