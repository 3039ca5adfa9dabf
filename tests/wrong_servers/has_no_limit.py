"""A line may be as long as it likes."""

from base import Chat, main


class Wrong(Chat):
    max_message = 1 << 40


main(Wrong)
