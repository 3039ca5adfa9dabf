"""A page from anywhere may connect, in the name of whoever looks at it."""

STEP = "web"
FOUND_BY = "test_road_web.test_a_page_from_elsewhere_does_not_come_in"
WITH = {"origin": "http://evil.example"}
SAYS = "assert 101 == 403"
REPLACE = {
    "origins=[*origins, None]": "origins=None",
}
