"""Who is silent may say the more later."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_nobody_is_faster_than_the_limits"
SAYS = "lines of"
REPLACE = {
    "min(self.most, self.tokens": "min(10**9, self.tokens",
}
