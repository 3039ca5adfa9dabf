"""When descriptors are used up, the newcomer waits in the queue and is accepted in vain, again and again."""

from base import Chat, main


class Wrong(Chat):
    max_clients = 1 << 40


main(Wrong)
