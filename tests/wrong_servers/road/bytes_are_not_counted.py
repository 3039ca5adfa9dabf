"""Lines are limited, however long they are."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_nobody_is_faster_than_the_limits"
SAYS = "bytes after"
REPLACE = {
    "client.bytes.take(len(data))": "client.bytes.take(0)",
}
