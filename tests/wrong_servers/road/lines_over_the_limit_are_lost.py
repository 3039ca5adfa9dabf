"""What somebody says over the limit is not told."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_what_arrived_before_one_left_is_told_at_its_pace"
WITH = {"leave": "close"}
SAYS = "waited in vain|got something else"
REPLACE = {
    "return pause\n": 'client.waiting = ""\n                return 0\n',
}
