"""A line chat with Twisted, as its documentation writes one ("Writing Servers"): a protocol per client,
the factory knows them all, each line is written to each.

    python bench/others/twisted_chat.py 9669
"""

import sys

from twisted.internet import protocol, reactor
from twisted.protocols.basic import LineReceiver


class Chat(LineReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 4096

    def connectionMade(self):
        peer = self.transport.getPeer()
        self.name = f"{peer.host}:{peer.port}"
        self.transport.setTcpNoDelay(True)
        self.factory.users.add(self)

    def connectionLost(self, reason):
        self.factory.users.discard(self)

    def lineReceived(self, line):
        message = f"{self.name} says: {line.decode(errors='replace')}".encode()
        for user in self.factory.users:
            if user is not self:
                user.sendLine(message)


class ChatFactory(protocol.Factory):
    protocol = Chat

    def __init__(self):
        self.users = set()


reactor.listenTCP(int(sys.argv[1]), ChatFactory(), backlog=1024, interface="127.0.0.1")
reactor.run()
