"""Pings and fragments are read as fast as they come."""

STEP = "web"
FOUND_BY = "test_road_web.test_whatever_a_browser_sends_counts"
WITH = {"kind": "fragments"}
SAYS = "it reads too much"
REPLACE = {
    "        client.bytes.take(len(data))  # here": "        # here",
}
