"""Two names that differ in case alone are two names."""

STEP = "names"
FOUND_BY = "test_road_names.test_names_that_look_alike_are_one"
SAYS = "is taken"
REPLACE = {
    'return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())': "return name",
}
