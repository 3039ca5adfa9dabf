"""Whoever has said too much is not read, and then dropped because its pong was not read."""

STEP = "web"
FOUND_BY = "test_road_web.test_who_is_held_back_by_the_limits_is_not_taken_for_gone"
SAYS = "waited in vain|got something else"
REPLACE = {
    "if client.awaited and not": "if not",
}
