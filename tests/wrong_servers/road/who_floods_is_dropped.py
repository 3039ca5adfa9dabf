"""Who says more than it may is thrown out."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_nobody_is_faster_than_the_limits"
SAYS = "not all was told"
REPLACE = {
    "return pause\n": 'return self.drop(client, "dropped: too fast")\n',
}
