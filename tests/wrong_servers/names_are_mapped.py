"""It calls its clients by the address that a socket for both IPv4 and IPv6 has for them."""

from base import Chat, main


class Wrong(Chat):
    def welcome(self, client):
        client.name = f"::ffff:{client.name}"


main(Wrong)
