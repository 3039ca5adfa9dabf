"""A browser that is gone without a word stays in the room."""

STEP = "web"
FOUND_BY = "test_road_web.test_a_browser_that_answers_no_ping_is_dropped"
SAYS = "it is still there"
REPLACE = {
    "        self.alive = False\n": "",
}
