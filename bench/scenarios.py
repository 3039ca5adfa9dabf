"""What is measured. A scenario is a load (see load.py --help), and the figures that it is there for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    mode: str = "talk"
    clients: int = 100
    talkers: int = 0  # 0: all of them
    in_flight: int = 1
    rate: int = 500
    size: int = 64
    deaf: int = 0
    at_least: float = 0.0  # seconds: what it shows takes its time
    growth: bool = False
    quick: bool = False

    @property
    def arguments(self):
        """For load.py."""
        words = {
            "mode": self.mode,
            "clients": self.clients,
            "talkers": self.talkers or self.clients,
            "in-flight": self.in_flight,
            "rate": self.rate,
            "size": self.size,
            "deaf": self.deaf,
        }
        return [word for name, value in words.items() for word in (f"--{name}", str(value))]

    @property
    def speed(self):
        """The metric that says how much gets done, or None where the load decides that."""
        return {"talk": "lines_per_second", "churn": "visits_per_second"}.get(self.mode)

    @property
    def cost(self):
        """The metric that says what one of them costs."""
        return {"bits": "cpu_us_per_bit", "churn": "cpu_us_per_visit"}.get(self.mode, "cpu_us_per_line")

    def lasts(self, seconds):
        """About how long one measurement takes, with starting, joining and stopping."""
        return 0.8 + 1.25 * max(seconds, self.at_least) + (self.clients + self.deaf) / 2500


CROWD = 5000  # connected while next to nothing happens
SCENARIOS = [
    Scenario("few", "10 clients, all talking, 16 lines in flight each", clients=10, in_flight=16),
    Scenario("all-talk", "100 clients, all talking, 1 line in flight each", quick=True),
    Scenario("all-talk-16", "100 clients, all talking, 16 lines in flight each", in_flight=16),
    Scenario("few-of-many", "500 clients, 10 talking, 1 line in flight each", clients=500, talkers=10),
    Scenario("steady", "10 clients, one talking, 500 lines a second", mode="steady", clients=10, quick=True),
    Scenario("bits", f"{CROWD} connected, one sends a line byte by byte", "bits", CROWD, rate=1000, size=400),
    Scenario("bits-alone", "2 connected, one sends a line byte by byte", "bits", 2, rate=1000, size=400),
    Scenario("churn", f"{CROWD} connected, others come and go", "churn", CROWD),
    Scenario("churn-alone", "nobody connected, others come and go", "churn", 0, quick=True),
    Scenario("deaf", "20 clients, all talking, and one that never reads", clients=20, deaf=1, size=400, at_least=2.0),
]
GROWTH = (10, 30, 100, 300, 1000, 3000)
for count in GROWTH:
    few = count in (10, 100, 1000)
    SCENARIOS += [
        Scenario(f"room-{count}", f"{count} clients, 10 talking", clients=count, talkers=10, growth=True, quick=few),
        Scenario(
            f"quiet-{count}",
            f"{count} connected, one sends a line byte by byte",
            "bits",
            count,
            rate=1000,
            size=400,
            growth=True,
            quick=few,
        ),
    ]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

TEXTS = {  # metric: (column, unit, factor, digits)
    "lines_per_second": ("delivered", "lines/s", 1, 3),
    "visits_per_second": ("come and go", "1/s", 1, 3),
    "cpu_us_per_line": ("CPU a line", "µs", 1, 3),
    "cpu_us_per_visit": ("CPU a visit", "µs", 1, 3),
    "cpu_us_per_bit": ("CPU a byte", "µs", 1, 3),
    "latency_p50": ("latency, median", "µs", 1, 3),
    "latency_p99": ("p99", "µs", 1, 3),
    "latency_max": ("longest", "µs", 1, 3),
    "longest_pause": ("longest pause", "ms", 1e3, 2),
    "memory_peak": ("memory, peak", "MB", 1e-6, 3),
    "memory_per_client": ("a client", "kB", 1e-3, 2),
    "threads": ("threads", "", 1, 0),
    "processes": ("processes", "", 1, 0),
}
FAULTS = ("lost", "duplicated", "reordered", "torn", "own", "disconnected")
