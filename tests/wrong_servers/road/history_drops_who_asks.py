"""All the lines that /history tells are sent at once, and are too much for one who reads as fast as can be."""

STEP = "history"
FOUND_BY = "test_road_history.test_long_lines_do_not_drop_who_asks_for_many"
SAYS = "waited in vain"
REPLACE = {"                await asyncio.wait([client.flushing])": "                pass"}
