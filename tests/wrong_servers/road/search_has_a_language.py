"""What somebody searches for is given to FTS5 as it is, as if it were written in its language."""

STEP = "history"
FOUND_BY = "test_road_history.test_search"
SAYS = "cats OR birds"
REPLACE = {
    """query = " ".join('"' + word.replace('"', '""') + '"' for word in words.split())""": "query = words",
}
