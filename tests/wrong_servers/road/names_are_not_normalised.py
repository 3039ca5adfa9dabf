"""A name is compared in one form, and shown as it was written."""

STEP = "names"
FOUND_BY = "test_road_names.test_names_that_are_allowed"
SAYS = "got something else"
REPLACE = {
    'name = unicodedata.normalize("NFKC", text.strip())': "name = text.strip()",
}
