"""The minutes of silence begin when somebody comes."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_who_is_silent_is_dropped"
SAYS = ">= 6|nothing heard for"
REPLACE = {
    "client.heard = self.loop.time()": "client.heard = client.heard or self.loop.time()",
}
