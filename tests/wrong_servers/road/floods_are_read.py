"""Lines over the limit are told later, and meanwhile kept in memory."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_who_floods_is_not_read"
SAYS = "4 MB were read|memory"
REPLACE = {
    "while pause := self.work(client)": "if pause := self.work(client)",
    "transport.pause_reading()": "self.loop.call_later(pause, self.work, client)",
    "await asyncio.sleep(pause)": "pass",
    "client.waiting = clean(lines)": "client.waiting += clean(lines)",
}
